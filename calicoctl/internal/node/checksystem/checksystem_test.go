package checksystem

import (
	"bytes"
	"compress/gzip"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

func file(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }

func TestSources(t *testing.T) {
	var config bytes.Buffer
	z := gzip.NewWriter(&config)
	_, _ = z.Write([]byte("CONFIG_NETFILTER_XT_SET=m\n# CONFIG_VETH is not set\nCONFIG_NET_IPIP=y\n"))
	_ = z.Close()
	for _, tc := range []struct {
		name string
		fs   fstest.MapFS
		want map[string]string
	}{
		{"nothing tells", fstest.MapFS{}, map[string]string{"xt_set": "unknown", "kernel 3.10 or later": "unknown"}},
		{"loaded", fstest.MapFS{"proc/modules": file("xt_set 16384 1 - Live 0x0\n")}, map[string]string{"xt_set": "found: loaded", "veth": "unknown"}},
		{"built in, as its folder tells", fstest.MapFS{"sys/module/xt_set/x": file("")}, map[string]string{"xt_set": "found: built in"}},
		{
			"built in or to be loaded",
			fstest.MapFS{
				"proc/sys/kernel/osrelease":                 file("6.1.0-9-amd64\n"),
				"lib/modules/6.1.0-9-amd64/modules.builtin": file("kernel/drivers/net/veth.ko\n"),
				"lib/modules/6.1.0-9-amd64/modules.dep":     file("kernel/net/netfilter/xt-set.ko.xz: kernel/net/netfilter/ipset/ip_set.ko.xz\n"),
			},
			map[string]string{"veth": "found: built in", "xt_set": "found: can be loaded", "ipip": "missing", "kernel 3.10 or later": "found: 6.1.0-9-amd64"},
		},
		{
			"a configuration in the kernel",
			fstest.MapFS{"proc/sys/kernel/osrelease": file("2.6.32\n"), "proc/config.gz": file(config.String())},
			map[string]string{"xt_set": "found: in /proc/config.gz", "veth": "missing", "ipip": "found: in /proc/config.gz", "kernel 3.10 or later": "missing: 2.6.32"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := map[string]string{}
			for _, it := range Check(tc.fs, nil).Items {
				if _, asked := tc.want[it.Name]; asked {
					got[it.Name] = strings.TrimSuffix(it.State+": "+it.How, ": ")
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("items (-want +got):\n%s", diff)
			}
		})
	}
}

func TestVerdict(t *testing.T) {
	var all strings.Builder
	for _, q := range requirements {
		if q.needed {
			all.WriteString(q.option + "=m\n")
		}
	}
	good := fstest.MapFS{"proc/sys/kernel/osrelease": file("6.1.0\n")}
	if r := Check(good, []byte(all.String())); !r.OK || len(r.In(Missing, false)) == 0 {
		t.Errorf("what is not needed counts: %+v", r)
	}
	if r := Check(good, []byte(strings.Replace(all.String(), "CONFIG_VETH=m", "", 1))); r.OK || r.In(Missing, true)[0].Name != "veth" {
		t.Errorf("what is needed does not count: %+v", r)
	}
	if r := Check(good, nil); !r.OK || len(r.In(Unknown, true)) == 0 {
		t.Errorf("what nobody knows counts: %+v", r)
	}
}

func TestThePluginAsAServiceIsRecommended(t *testing.T) {
	if f := pluginPlace(true); f.State != Warning || !strings.Contains(f.Cure, "--plugin=host") || !strings.Contains(f.Found, "an engine that starts finds it there") {
		t.Errorf("got %+v", f)
	}
	if f := pluginPlace(false); f.State != OK {
		t.Errorf("got %+v", f)
	}
}

// Package checksystem finds out whether a host has what Calico needs: it tries in a network
// namespace of its own what felix and the plugin do, reads the host's settings, and asks Docker's
// engine and etcd. Where nothing can be tried, and for a kernel that does not run, it reads
// the kernel's files. It is an edge.
package checksystem

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// The states of a requirement.
const (
	// Found says that the kernel has it, or can load it.
	Found = "found"
	// Missing says that the kernel has not.
	Missing = "missing"
	// Unknown says that nothing on the host tells.
	Unknown = "unknown"
)

// Item is one requirement and how the host meets it.
type Item struct {
	Name string `json:"name"`
	// Needed is false for what only some features need.
	Needed bool   `json:"needed"`
	For    string `json:"for"`
	State  string `json:"state"`
	// How says where it was found.
	How string `json:"how,omitempty"`
}

// Report is what was found.
type Report struct {
	Kernel string `json:"kernel"`
	Items  []Item `json:"items"`
	// OK says that nothing that is needed is missing.
	OK bool `json:"ok"`
}

// requirement is a module, or the options that build it into the kernel.
type requirement struct {
	module, option, purpose string
	needed                  bool
}

// The oldest kernel on which the supported engines run.
const minMajor, minMinor = 3, 10

var requirements = []requirement{
	{"ip_set", "CONFIG_IP_SET", "address sets", true},
	{"ip_set_hash_net", "CONFIG_IP_SET_HASH_NET", "address sets", true},
	{"xt_set", "CONFIG_NETFILTER_XT_SET", "rules with address sets", true},
	{"xt_conntrack", "CONFIG_NETFILTER_XT_MATCH_CONNTRACK", "rules that know connections", true},
	{"xt_mark", "CONFIG_NETFILTER_XT_MARK", "verdicts of policies", true},
	{"xt_multiport", "CONFIG_NETFILTER_XT_MATCH_MULTIPORT", "rules with several ports", true},
	{"xt_comment", "CONFIG_NETFILTER_XT_MATCH_COMMENT", "telling own rules from others", true},
	{"nf_conntrack", "CONFIG_NF_CONNTRACK", "connections", true},
	{"nf_conntrack_netlink", "CONFIG_NF_CT_NETLINK", "ending connections of removed containers", true},
	{"veth", "CONFIG_VETH", "interfaces of containers", true},
	{"xt_rpfilter", "CONFIG_IP_NF_MATCH_RPFILTER", "guarding source addresses", false},
	{"xt_addrtype", "CONFIG_NETFILTER_XT_MATCH_ADDRTYPE", "host endpoints", false},
	{"xt_CT", "CONFIG_NETFILTER_XT_TARGET_CT", "untracked policies", false},
	{"xt_MASQUERADE", "CONFIG_NETFILTER_XT_TARGET_MASQUERADE", "nat-outgoing of pools", false},
	{"ip6_tables", "CONFIG_IP6_NF_IPTABLES", "IPv6", false},
	{"ipip", "CONFIG_NET_IPIP", "IP-in-IP of pools", false},
}

// Check looks at a host by the root of its files. config, if not nil, is a kernel
// configuration that alone decides about modules.
func Check(root fs.FS, config []byte) Report {
	release := strings.TrimSpace(readText(root, "proc/sys/kernel/osrelease"))
	r := Report{Kernel: release, OK: true}
	r.add(kernelItem(release))
	sources := sourcesOf(root, release, config)
	for _, q := range requirements {
		it := Item{Name: q.module, Needed: q.needed, For: q.purpose, State: Unknown}
		for _, s := range sources {
			if s.has(q) {
				it.State, it.How = Found, s.name
				break
			}
			if s.complete {
				it.State = Missing
			}
		}
		r.add(it)
	}
	return r
}

func (r *Report) add(it Item) {
	r.Items = append(r.Items, it)
	r.OK = r.OK && (it.State != Missing || !it.Needed)
}

// kernelItem is about the kernel's version.
func kernelItem(release string) Item {
	it := Item{Name: fmt.Sprintf("kernel %d.%d or later", minMajor, minMinor), Needed: true, For: "everything", State: Unknown}
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return it
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(strings.TrimRight(parts[1], "-+abcdefghijklmnopqrstuvwxyz"))
	if err1 != nil || err2 != nil {
		return it
	}
	it.State, it.How = Found, release
	if major < minMajor || major == minMajor && minor < minMinor {
		it.State = Missing
	}
	return it
}

// source is a place that tells which modules the kernel has.
type source struct {
	name string
	// complete says that what is not in it is not there.
	complete bool
	modules  map[string]bool
	options  map[string]bool
}

func (s source) has(q requirement) bool {
	return s.modules[canonical(q.module)] || s.options[q.option]
}

// canonical is a module's name as the kernel compares it.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

func sourcesOf(root fs.FS, release string, config []byte) []source {
	if config != nil {
		return []source{{name: "the given kernel configuration", complete: true, options: options(config)}}
	}
	dir := "lib/modules/" + release + "/"
	out := []source{
		{name: "loaded", modules: firstWords(readText(root, "proc/modules"))},
		{name: "built in", modules: directories(root, "sys/module")},
		{name: "built in", modules: paths(readText(root, dir+"modules.builtin"))},
	}
	if text := readText(root, dir+"modules.dep"); text != "" {
		out = append(out, source{name: "can be loaded", complete: true, modules: paths(text)})
	}
	for _, name := range []string{"proc/config.gz", "boot/config-" + release, dir + "config"} {
		if data := readMaybeGzip(root, name); data != nil {
			out = append(out, source{name: "in /" + name, complete: true, options: options(data)})
			break
		}
	}
	return out
}

// options are those of a kernel configuration that are built in or modules.
func options(config []byte) map[string]bool {
	out := map[string]bool{}
	for scan := bufio.NewScanner(bytes.NewReader(config)); scan.Scan(); {
		name, value, ok := strings.Cut(strings.TrimSpace(scan.Text()), "=")
		if ok && (value == "y" || value == "m") {
			out[name] = true
		}
	}
	return out
}

func firstWords(text string) map[string]bool {
	out := map[string]bool{}
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) > 0 {
			out[canonical(fields[0])] = true
		}
	}
	return out
}

// paths reads modules.dep and modules.builtin: a path of a module, and maybe a colon
// and others that it needs.
func paths(text string) map[string]bool {
	out := map[string]bool{}
	for line := range strings.Lines(text) {
		file, _, _ := strings.Cut(strings.TrimSpace(line), ":")
		name, _, ok := strings.Cut(path.Base(file), ".ko")
		if ok {
			out[canonical(name)] = true
		}
	}
	return out
}

func directories(root fs.FS, dir string) map[string]bool {
	out := map[string]bool{}
	entries, err := fs.ReadDir(root, dir)
	if err != nil {
		return out
	}
	for _, e := range entries {
		out[canonical(e.Name())] = true
	}
	return out
}

func readText(root fs.FS, name string) string { return string(readMaybeGzip(root, name)) }

// readMaybeGzip returns nil for a file that cannot be read.
func readMaybeGzip(root fs.FS, name string) []byte {
	data, err := fs.ReadFile(root, name)
	if err != nil {
		return nil
	}
	if !strings.HasSuffix(name, ".gz") {
		return data
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil
	}
	data, err = io.ReadAll(z)
	if err != nil {
		return nil
	}
	return data
}

// In lists the items in a state, of those that are needed or of those that are not.
func (r Report) In(state string, needed bool) []Item {
	return slices.DeleteFunc(slices.Clone(r.Items), func(it Item) bool { return it.State != state || it.Needed != needed })
}

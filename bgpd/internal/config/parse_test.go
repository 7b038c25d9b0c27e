package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var compareNetip = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

// minimal is the least document; tests append to it.
const minimal = `node = "n1"
as_number = 64512
listen_addresses = ["10.0.0.1"]
`

func readReference(t *testing.T) []byte {
	t.Helper()
	doc, err := os.ReadFile("../../testdata/reference.toml")
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestParse_the_reference_file_holds_every_key(t *testing.T) {
	doc := readReference(t)
	got, warnings, err := Parse(doc)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("Parse: %v, warnings %v", err, warnings)
	}
	want := Config{
		Node:       "node00",
		RouterID:   netip.MustParseAddr("172.28.8.100"),
		ASNumber:   64512,
		Listen:     []netip.Addr{netip.MustParseAddr("172.28.8.100"), netip.MustParseAddr("fd00:172:28:8::100")},
		ListenPort: 179,
		LogLevel:   LogInfo,
		Networks:   []netip.Prefix{netip.MustParsePrefix("172.28.8.0/24")},
		Mesh:       true,
		Peers: []Peer{
			{Name: "Global_172_28_8_1", Type: PeerGlobal, Address: netip.MustParseAddr("172.28.8.1"), ASNumber: 65001, Password: "example", Port: 179},
			{
				Name: "Node_172_28_8_7", Type: PeerNode, Address: netip.MustParseAddr("172.28.8.7"), ASNumber: 64512, Port: 179,
				ReflectorClient: true, ClusterID: netip.MustParseAddr("244.0.0.1"),
			},
			{Name: "Mesh_172_28_8_101", Type: PeerMesh, Address: netip.MustParseAddr("172.28.8.101"), ASNumber: 64512, Port: 179},
			{Name: "Mesh_fd00_172_28_8__101", Type: PeerMesh, Address: netip.MustParseAddr("fd00:172:28:8::101"), ASNumber: 64512, Port: 179},
		},
		Pools: []Pool{
			{CIDR: netip.MustParsePrefix("192.168.0.0/16"), Export: true},
			{CIDR: netip.MustParsePrefix("fd80:24e2:f998:72d6::/64"), Export: true},
		},
		Timers:   Timers{Hold: 90 * time.Second, ConnectRetry: time.Second, Restart: 120 * time.Second},
		Protocol: 12,
		Hash:     HashOf(doc),
	}
	if diff := cmp.Diff(want, got, compareNetip); diff != "" {
		t.Errorf("Parse (-want +got):\n%s", diff)
	}
}

// TestParse_keys_of_the_reference checks the other direction: what the reference file
// leaves out does not exist, so each key that is removed from the code fails above and
// each that is added must be described there.
func TestParse_keys_of_the_reference(t *testing.T) {
	doc := string(readReference(t))
	d, root := open([]byte(doc))
	readConfig(root)
	for _, key := range root.known {
		if !strings.Contains(doc, "\n"+key+" = ") && !strings.Contains(doc, "["+key+"]") {
			t.Errorf("the reference file does not describe %q", key)
		}
	}
	if len(d.faults) > 0 {
		t.Error(d.faults)
	}
}

func TestParse_fills_in_defaults(t *testing.T) {
	got, _, err := Parse([]byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Node: "n1", RouterID: netip.MustParseAddr("10.0.0.1"), ASNumber: 64512,
		Listen: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, ListenPort: 179, LogLevel: LogInfo, Mesh: true,
		Timers:   Timers{Hold: 90 * time.Second, ConnectRetry: time.Second, Restart: 120 * time.Second},
		Protocol: 12, Hash: got.Hash,
	}
	if diff := cmp.Diff(want, got, compareNetip); diff != "" {
		t.Errorf("Parse (-want +got):\n%s", diff)
	}
}

func TestParse_chooses_a_router_id_for_a_host_without_ipv4(t *testing.T) {
	parse := func(node string) netip.Addr {
		c, _, err := Parse(fmt.Appendf(nil, "node = %q\nas_number = 1\nlisten_addresses = [\"fd00::1\"]\n", node))
		if err != nil {
			t.Fatal(err)
		}
		return c.RouterID
	}
	a, b := parse("a"), parse("b")
	if !a.Is4() || a == b || a.IsUnspecified() || a != parse("a") {
		t.Errorf("router ids %v and %v", a, b)
	}
}

func TestParse_refuses_with_all_faults_and_their_lines(t *testing.T) {
	for _, tc := range []struct {
		name, doc string
		want      []string
	}{
		{"an empty document", "", []string{"as_number: is missing", "node: is missing"}},
		{"broken syntax", "node = \"n1\"\nas_number = \n", []string{"line 2: column 13:"}},
		{"a key that stands there twice", "node = \"a\"\nnode = \"b\"\n", []string{"line 2: column 1:"}},
		{"wrong types", "node = 5\nas_number = true\nlisten_addresses = \"10.0.0.1\"\nlisten_port = \"x\"\n", []string{
			`line 1: node: is the number 5, must be a text`,
			`line 1: node: is missing`,
			`line 2: as_number: is true, must be an AS number`,
			`line 3: listen_addresses: is the text "10.0.0.1", must be a list of texts`,
			`line 4: listen_port: is the text "x", must be a number`,
		}},
		{"several faults in peers and pools", minimal + `
[[peer]]
name = "Mesh_1"
type = "mash"
address = "10.0.0.999"
as_number = 99999999999
port = 70000

[[peer]]
type = "global"
as_number = "1.99999"

[[pool]]
cidr = "192.168.1.0/16"
ipip = "sometimes"

[[pool]]
cidr = "fd80::/64"
ipip = "always"
`, []string{
			`line 7: peer[0].type: is "mash", must be one of ["mesh" "global" "node"]`,
			`line 8: peer[0].address: "10.0.0.999" is not an IP address`,
			`line 9: peer[0].as_number: is the number 99999999999, must be an AS number`,
			`line 10: peer[0].port: is 70000, must be from 1 to 65535`,
			`line 12: peer[1].name: is missing`,
			`line 12: peer[1].address: is missing`,
			`line 14: peer[1].as_number: is the text "1.99999", must be an AS number`,
			`line 17: pool[0].cidr: "192.168.1.0/16" has bits beyond its length; did you mean "192.168.0.0/16"?`,
			`line 18: pool[0].ipip: is "sometimes", must be one of`,
			`line 22: pool[1].ipip: is "always", but an IPv6 pool cannot use IP-in-IP`,
		}},
		{"reserved AS numbers", "node = \"n\"\nas_number = 0\n[[peer]]\nname = \"p\"\ntype = \"node\"\naddress = \"10.0.0.2\"\nas_number = 23456\n", []string{
			"line 2: as_number: is the number 0, which is reserved",
			"line 7: peer[0].as_number: is the number 23456, which is reserved",
		}},
		{"addresses that are nobody's", "node = \"n\"\nas_number = 1\nrouter_id = \"fd00::1\"\nlisten_addresses = [\"0.0.0.0\", \"224.0.0.1\", \"fe80::1%eth0\", \"10.0.0.1\", \"10.0.0.2\", 7]\n", []string{
			`line 3: router_id: is "fd00::1", must be an IPv4 address`,
			`line 4: listen_addresses: has the number 7, must be a list of texts`,
			`line 4: listen_addresses: "0.0.0.0" is not the address of a host`,
			`line 4: listen_addresses: "224.0.0.1" is not the address of a host`,
			`line 4: listen_addresses: "fe80::1%eth0" must be a plain`,
			`line 4: listen_addresses: has two addresses of one family`,
		}},
		{"times out of range", minimal + "[timers]\nhold = 2\nrestart = 5000\n[kernel]\nprotocol = 2\n", []string{
			"line 5: timers.hold: is 2, must be at least 3",
			"line 6: timers.restart: is 5000, must be at most 4095",
			"line 8: kernel.protocol: is 2, must be from 5 to 255",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, _, err := Parse([]byte(tc.doc))
			var invalid *InvalidError
			if !errors.As(err, &invalid) {
				t.Fatalf("err = %v, want an InvalidError", err)
			}
			got := strings.Split(err.Error(), "\n")
			if len(got) != len(tc.want) {
				t.Fatalf("got %d faults, want %d:\n%s", len(got), len(tc.want), err)
			}
			for i := range got {
				if !strings.HasPrefix(got[i], tc.want[i]) {
					t.Errorf("fault %d is\n  %s\nwant\n  %s", i, got[i], tc.want[i])
				}
			}
		})
	}
}

func peerText(name, kind, addr string) string {
	return fmt.Sprintf("[[peer]]\nname = %q\ntype = %q\naddress = %q\nas_number = 64512\n", name, kind, addr)
}

func TestParse_warns_and_goes_on(t *testing.T) {
	for _, tc := range []struct {
		name, doc string
		want      []string
		peers     []string
	}{
		{
			"unknown keys, with a suggestion", minimal + "listen_prot = 1\n[mash]\nenabled = true\n[mesh]\nenable = true\ncolour = 1\n",
			[]string{
				`line 4: listen_prot: unknown key, ignored; did you mean "listen_port"?`,
				`line 5: mash: unknown key, ignored; did you mean "mesh"?`,
				`line 8: mesh.enable: unknown key, ignored; did you mean "enabled"?`,
				`line 9: mesh.colour: unknown key, ignored`,
			},
			nil,
		},
		{
			"the host as its own peer", minimal + peerText("self", "mesh", "10.0.0.1"),
			[]string{`line 7: peer[0].address: 10.0.0.1 is this host's own, ignored`},
			nil,
		},
		{
			"a peer of a family that the host has not", minimal + peerText("six", "mesh", "fd00::2"),
			[]string{`line 7: peer[0].address: fd00::2 is of a family of which this host has no BGP address, ignored`},
			nil,
		},
		{
			"one peer twice", minimal + peerText("a", "global", "10.0.0.2") + peerText("b", "global", "10.0.0.2"),
			[]string{`line 12: peer[1].address: 10.0.0.2 is the global peer a already; the first one counts`},
			[]string{"a"},
		},
		{
			"one peer in two spellings", strings.Replace(minimal, `"]`, `", "fd00::1"]`, 1) + peerText("a", "mesh", "FD00::0002") + peerText("b", "mesh", "fd00::2"),
			[]string{`line 12: peer[1].address: fd00::2 is the mesh peer a already; the first one counts`},
			[]string{"a"},
		},
		{
			"one pool in two spellings", minimal + "[[pool]]\ncidr = \"FD80::0/64\"\n[[pool]]\ncidr = \"fd80::/64\"\nexport = false\n",
			[]string{`line 7: pool[1].cidr: fd80::/64 stands there twice; the first one counts`},
			nil,
		},
		{
			"one address as node, mesh and global peer", minimal + peerText("n", "node", "10.0.0.2") + peerText("m", "mesh", "10.0.0.2") + peerText("g", "global", "10.0.0.2"),
			[]string{
				`line 12: peer[1].address: 10.0.0.2 is also the mesh peer m, which is ignored: n counts`,
				`line 17: peer[2].address: 10.0.0.2 is also the global peer g, which is ignored: n counts`,
			},
			[]string{"n"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, warnings, err := Parse([]byte(tc.doc))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, w := range warnings {
				got = append(got, w.String())
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			var peers []string
			for _, p := range c.Peers {
				peers = append(peers, p.Name)
			}
			if diff := cmp.Diff(tc.peers, peers); diff != "" {
				t.Errorf("peers (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSecret_is_never_printed(t *testing.T) {
	var b strings.Builder
	p := Peer{Name: "x", Password: "hunter2"}
	slog.New(slog.NewTextHandler(&b, nil)).Info("peer", "password", p.Password)
	fmt.Fprintf(&b, "%v %+v %#v %s %q", p, p, p, p.Password, p.Password)
	if strings.Contains(b.String(), "hunter2") {
		t.Errorf("the secret is in %q", b.String())
	}
}

func FuzzParse(f *testing.F) {
	ref, err := os.ReadFile("../../testdata/reference.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ref)
	f.Add([]byte(minimal))
	f.Add([]byte("peer = 1\n[[pool]]\n[mesh.x]\n"))
	f.Fuzz(func(t *testing.T, doc []byte) {
		c, _, err := Parse(doc)
		if err != nil {
			var invalid *InvalidError
			if !errors.As(err, &invalid) || len(invalid.Faults) == 0 {
				t.Fatalf("error without a fault: %v", err)
			}
			return
		}
		if c.Node == "" || c.ASNumber == 0 || !c.RouterID.Is4() {
			t.Fatalf("accepted %+v", c)
		}
	})
}

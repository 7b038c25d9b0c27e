package config

import (
	"fmt"
	"strings"
	"testing"
)

// meshOf is the document of a node in a mesh of the given size, both families.
func meshOf(nodes int) []byte {
	var b strings.Builder
	b.WriteString("node = \"n\"\nas_number = 64512\nlisten_addresses = [\"10.0.0.1\", \"fd00::1\"]\n")
	for i := 2; i <= nodes; i++ {
		for _, a := range []string{fmt.Sprintf("10.0.%d.%d", i>>8, i&255), fmt.Sprintf("fd00::%x", i)} {
			fmt.Fprintf(&b, "\n[[peer]]\nname = \"Mesh_%s\"\ntype = \"mesh\"\naddress = \"%s\"\nas_number = 64512\n", a, a)
		}
	}
	b.WriteString("\n[[pool]]\ncidr = \"192.168.0.0/16\"\nipip = \"\"\ndisabled = false\nexport = true\n")
	return []byte(b.String())
}

// BenchmarkParse_1000_nodes is what each host pays when a node joins a mesh of a thousand.
func BenchmarkParse_1000_nodes(b *testing.B) {
	for name, text := range map[string][]byte{"valid": meshOf(1000), "with a warning": append(meshOf(1000), "colour = \"red\"\n"...)} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				c, _, err := Parse(text)
				if err != nil || len(c.Peers) != 1998 {
					b.Fatal(len(c.Peers), err)
				}
			}
		})
	}
}

package iptables

import (
	"bytes"
	"slices"

	"golang.org/x/sys/unix"

	"calico.internal/felix/internal/nlconn"
	"calico.internal/felix/internal/rules"
)

// Docker names the bridges of its networks in rules of its own chains, whatever they are
// called. One chain among these is for rules of others.

// DockerInterfaces are the interfaces that rules in Docker's chains of the table named when it
// was last read, sorted.
func (t *Target) DockerInterfaces() []string { return t.reader.docker() }

// ofDocker reports whether Docker writes the rules of a chain.
func ofDocker(chain []byte) bool {
	return bytes.HasPrefix(chain, []byte("DOCKER")) && string(chain) != "DOCKER-USER"
}

// dockerIn finds the interfaces in the text of iptables-save.
func dockerIn(text []byte) []string {
	var names []string
	for line := range bytes.Lines(text) {
		words := bytes.Fields(line)
		if len(words) < 2 || string(words[0]) != "-A" || !ofDocker(words[1]) {
			continue
		}
		for i, w := range words[:len(words)-1] {
			if option := string(w); option == "-i" || option == "-o" {
				names = append(names, string(words[i+1]))
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// addInterface takes note of an expression that compares the name of an interface.
func (r *kernelRule) addInterface(name string, data []byte) {
	if !ofDocker(r.chain) {
		return
	}
	asks := r.asksInterface
	r.asksInterface = false
	nlconn.Attrs(data, func(typ uint16, value []byte) {
		switch {
		case name == "meta" && typ == unix.NFTA_META_KEY:
			key := number(value)
			r.asksInterface = key == unix.NFT_META_IIFNAME || key == unix.NFT_META_OIFNAME
		case name == "cmp" && asks && typ == unix.NFTA_CMP_DATA:
			nlconn.Attrs(value, func(_ uint16, text []byte) {
				text, _, _ = bytes.Cut(text, []byte{0})
				r.interfaces = append(r.interfaces, string(text))
			})
		}
	})
}

// noteDocker keeps the interfaces of a rule.
func (r *nftReader) noteDocker(t rules.Table, rule kernelRule) {
	if t != rules.Filter {
		return
	}
	for _, name := range rule.interfaces {
		if at, known := slices.BinarySearch(r.dockers, name); !known {
			r.dockers = slices.Insert(r.dockers, at, name)
		}
	}
}

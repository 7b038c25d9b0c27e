package iptables

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"calico.internal/felix/internal/nlconn"
	"calico.internal/felix/internal/rules"
)

// TestHashesInTextsOfOthers has felix's mark in places where another program could write it.
func TestHashesInTextsOfOthers(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 2*hashLength)
	for text, want := range map[string]string{
		`-m comment --comment "cali:abc-_09AZ" -j X`:                     "abc-_09AZ",
		`-i eth0 -m comment --comment "cali:late" -j X`:                  "late",
		`-m comment --comment "cali:` + long + `" -j X`:                  long,
		`-m comment --comment "cali:` + long + `a" -j X`:                 "",
		`-m comment --comment "cali:" -j X`:                              "",
		`-m comment --comment "cali:a b" -j X`:                           "",
		`-m comment --comment "cali:ü" -j X`:                             "",
		`-m comment --comment "Cali:abc" -j X`:                           "",
		`-m comment --comment "xcali:abc" -j X`:                          "",
		`-m comment --comment cali:abc -j X`:                             "",
		`-m comment --comment "say --comment \"cali:abc\" to it" -j X`:   "",
		`-m comment --comment "cali:cut`:                                 "",
		`-m comment --comment "cali:bad!" -m comment --comment "cali:g"`: "",
		`-m recent --name "cali:abc" -j X`:                               "",
		``:                                                               "",
	} {
		if got := string(findHash([]byte(text))); got != want {
			t.Errorf("%s: found %q, want %q", text, got, want)
		}
	}
}

// TestDamagedOutputsOfSave has outputs that other variants, versions and dying programs print.
func TestDamagedOutputsOfSave(t *testing.T) {
	t.Parallel()
	const rule = `-A cali-a -m comment --comment "cali:one" -j DROP` + "\n"
	for _, c := range []struct {
		name, text string
		want       map[string][]string // nil for an error
	}{
		{"a chain without counters", "*filter\n:cali-a\n" + rule + "COMMIT\n", map[string][]string{"cali-a": {"one"}}},
		{"a rule of a chain that was not declared", "*filter\n" + rule + "COMMIT\n", map[string][]string{"cali-a": {"one"}}},
		{"a rule without a text", "*filter\n:X - [0:0]\n-A X\nCOMMIT\n", map[string][]string{"X": {""}}},
		{"rules before the first table", rule + "*filter\n:cali-a - [0:0]\nCOMMIT\n", map[string][]string{"cali-a": {}}},
		{"rules behind the last table", "*filter\n:cali-a - [0:0]\nCOMMIT\n" + rule, map[string][]string{"cali-a": {}}},
		{"empty lines and remarks", "\n# x\n*filter\n\n# COMMIT\n:cali-a - [0:0]\n\nCOMMIT\n# end", map[string][]string{"cali-a": {}}},
		{"no line break at the end", "*filter\n:cali-a - [0:0]\nCOMMIT", map[string][]string{"cali-a": {}}},
		{"lines of another system", "*filter\r\n:cali-a - [0:0]\r\nCOMMIT\r\n", map[string][]string{"cali-a": {}}},
		{"cut within the last word", "*filter\n:cali-a - [0:0]\n" + rule + "COMM", nil},
		{"cut before another table", "*filter\n:cali-a - [0:0]\n*nat\nCOMMIT\n", nil},
		{"another table whose name begins so", "*filters\nCOMMIT\n", nil},
		{"a text of a program that only says why", "iptables-save v1.8.9 (nf_tables): Could not fetch\n", nil},
	} {
		got, err := parseSave(rules.Filter, []byte(c.text))
		if c.want == nil {
			if !errors.Is(err, errIncomplete) {
				t.Errorf("%s: got %v, %v", c.name, got, err)
			}
			continue
		}
		if d := cmp.Diff(c.want, hashes(got)); err != nil || d != "" {
			t.Errorf("%s: (-want +got):\n%s, %v", c.name, d, err)
		}
	}
	endless := "*filter\n-A X -m comment --comment \"" + strings.Repeat("x", 2<<20) + "\"\nCOMMIT\n"
	if c, err := parseSave(rules.Filter, []byte(endless)); !errors.Is(err, bufio.ErrTooLong) {
		t.Errorf("a line without end: %d chains, %v", len(c), err)
	}
}

// TestEachBeginningOfAnOutputIsRefused cuts an output everywhere: no part of a table is a table.
func TestEachBeginningOfAnOutputIsRefused(t *testing.T) {
	t.Parallel()
	end := strings.LastIndex(saved, "COMMIT") + len("COMMIT")
	for n := range end {
		if c, err := parseSave(rules.Filter, []byte(saved[:n])); !errors.Is(err, errIncomplete) {
			t.Fatalf("cut behind %q: %v, %v", saved[max(0, n-20):n], c, err)
		}
	}
	if _, err := parseSave(rules.Filter, []byte(saved[:end])); err != nil {
		t.Error(err)
	}
}

// TestTextsOfOthersAreNotKept keeps the text of what felix deletes by it, and of nothing else.
func TestTextsOfOthersAreNotKept(t *testing.T) {
	t.Parallel()
	c, err := parseSave(rules.Filter, []byte(saved))
	if err != nil {
		t.Fatal(err)
	}
	want := []Rule{
		{Hash: "hook1", Text: `-m comment --comment "cali:hook1" -j cali-A`},
		{},
		{Hash: "last", Text: `-m comment --comment "cali:last" -j ACCEPT`},
	}
	if d := cmp.Diff(want, c["FORWARD"].rules); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for _, r := range slices.Concat(c["cali-A"].rules, c["INPUT"].rules) {
		if r.Text != "" {
			t.Errorf("kept is %q", r.Text)
		}
	}
}

// expressionOf is an expression of nf_tables as the kernel shows it.
func expressionOf(name string, data []byte) []byte { return addExpression(nil, name, data) }

func commentMatch(info string) []byte {
	m := nlconn.Attr(nil, unix.NFTA_MATCH_NAME, nlconn.String("comment"))
	return expressionOf("match", nlconn.Attr(m, unix.NFTA_MATCH_INFO, []byte(info)))
}

func ruleAttrs(chain string, expressions ...[]byte) []byte {
	b := nlconn.Attr(nil, unix.NFTA_RULE_TABLE, nlconn.String("filter"))
	b = nlconn.Attr(b, unix.NFTA_RULE_CHAIN, nlconn.String(chain))
	b = nlconn.Attr(b, unix.NFTA_RULE_HANDLE, binary.BigEndian.AppendUint64(nil, 1<<40+7))
	return nlconn.Attr(b, unix.NFTA_RULE_EXPRESSIONS, slices.Concat(expressions...))
}

func TestRulesAsTheKernelShowsThem(t *testing.T) {
	t.Parallel()
	ct, counter := expressionOf("ct", nil), expressionOf("counter", nil)
	other := nlconn.Attr(nil, unix.NFTA_MATCH_NAME, nlconn.String("mark"))
	for _, c := range []struct {
		name         string
		expressions  [][]byte
		hash, native string
	}{
		{"none", nil, "", ""},
		{"felix's", [][]byte{commentMatch("cali:abc\x00\x00\x00"), counter}, "abc", ""},
		{"behind others", [][]byte{counter, commentMatch("cali:abc\x00")}, "abc", ""},
		{"the first of two", [][]byte{commentMatch("cali:one\x00"), commentMatch("cali:two\x00")}, "one", ""},
		{"behind a comment for people", [][]byte{commentMatch("why\x00"), commentMatch("cali:two\x00")}, "two", ""},
		{"what stands behind the end is not read", [][]byte{commentMatch("cali:ab\x00cd")}, "ab", ""},
		{"no end", [][]byte{commentMatch("cali:abc")}, "abc", ""},
		{"a comment of others", [][]byte{commentMatch("cali: abc\x00")}, "", ""},
		{"an empty comment", [][]byte{commentMatch("")}, "", ""},
		{"another match with felix's text", [][]byte{expressionOf("match", nlconn.Attr(other, unix.NFTA_MATCH_INFO, []byte("cali:abc\x00")))}, "", ""},
		{"another expression with felix's text", [][]byte{expressionOf("counter", nlconn.Attr(nil, unix.NFTA_MATCH_INFO, []byte("cali:abc\x00")))}, "", ""},
		{"nft's own", [][]byte{ct, counter}, "", "ct"},
		{"the last of two of nft's own", [][]byte{ct, expressionOf("vmap", nil)}, "", "vmap"},
		{"a match without data", [][]byte{expressionOf("match", nil)}, "", ""},
		{"an expression without a name", [][]byte{nlconn.Attr(nil, unix.NFTA_LIST_ELEM, nil)}, "", ""},
	} {
		got := readRule(ruleAttrs("OUTPUT", c.expressions...))
		if string(got.hash) != c.hash || string(got.native) != c.native {
			t.Errorf("%s: hash %q, native %q, want %q, %q", c.name, got.hash, got.native, c.hash, c.native)
		}
		if string(got.table) != "filter" || string(got.chain) != "OUTPUT" || got.handle != 1<<40+7 {
			t.Errorf("%s: read as %q, %q, %d", c.name, got.table, got.chain, got.handle)
		}
	}
	if got := readRule(nlconn.Attr(nil, unix.NFTA_RULE_HANDLE, []byte{1, 2, 3})); got.handle != 0 {
		t.Errorf("a handle of three bytes is %d", got.handle)
	}
}

// TestInterfacesInExpressions has interfaces in rules of Docker's and in rules of others.
func TestInterfacesInExpressions(t *testing.T) {
	t.Parallel()
	in := addInterface(nil, unix.NFT_META_IIFNAME, rules.Interface{Name: "br-x"})
	out := addInterface(nil, unix.NFT_META_OIFNAME, rules.Interface{Name: "veth", Prefix: true})
	protocol := addCompare(addMeta(nil, unix.NFT_META_L4PROTO), unix.NFT_CMP_EQ, []byte("tcp"))
	apart := slices.Concat(addMeta(nil, unix.NFT_META_IIFNAME), expressionOf("counter", nil), addCompare(nil, unix.NFT_CMP_EQ, []byte("no")))
	for _, c := range []struct {
		name, chain string
		expressions []byte
		want        []string
	}{
		{"both ends", "DOCKER", slices.Concat(in, out), []string{"br-x", "veth"}},
		{"nothing of interfaces", "DOCKER", protocol, nil},
		{"a comparison that is not of the interface", "DOCKER", apart, nil},
		{"the chain for rules of others", "DOCKER-USER", in, nil},
		{"a chain of others", "FORWARD", in, nil},
		{"a chain of Docker's isolation", "DOCKER-ISOLATION-STAGE-1", in, []string{"br-x"}},
	} {
		if got := readRule(ruleAttrs(c.chain, c.expressions)).interfaces; !slices.Equal(got, c.want) {
			t.Errorf("%s: found %q, want %q", c.name, got, c.want)
		}
	}
	r := &nftReader{}
	for _, name := range []string{"b", "a", "b", "c", "a"} {
		r.noteDocker(rules.Filter, kernelRule{interfaces: []string{name}})
		r.noteDocker(rules.NAT, kernelRule{interfaces: []string{"nat"}})
	}
	if got := r.docker(); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("noted are %q", got)
	}
}

// FuzzReadRule feeds what might come instead of a rule's attributes: nothing but a whole comment
// of felix's makes a rule felix's.
func FuzzReadRule(f *testing.F) {
	whole := ruleAttrs("DOCKER", commentMatch("cali:abc\x00"), addInterface(nil, unix.NFT_META_IIFNAME, rules.Interface{Name: "br-x"}))
	for _, n := range []int{0, 1, 3, 4, 5, 17, len(whole) / 2, len(whole) - 1, len(whole)} {
		f.Add(whole[:n])
	}
	f.Add(nlconn.Attr(nil, unix.NFTA_RULE_USERDATA, []byte("\x00\x09cali:abc\x00")))
	f.Add(nlconn.Attr(nil, unix.NFTA_RULE_USERDATA, []byte{0, 255, 'c'}))
	f.Fuzz(func(t *testing.T, attrs []byte) {
		rule := readRule(attrs)
		if rule.hash != nil && (!isHash(rule.hash) || !bytes.Contains(attrs, append([]byte(commentPrefix), rule.hash...))) {
			t.Errorf("%q has the hash %q", attrs, rule.hash)
		}
		_, _, _ = readHook(attrs) // which reads the same kind of list
	})
}

// FuzzParseLead feeds what might come instead of a legacy table's entries, which must end and
// never name more rules than there is room for.
func FuzzParseLead(f *testing.F) {
	layout := entryLayout{88, 90, 112}
	table := slices.Concat(entry(layout, "", "cali:one"), entry(layout, ""), entry(layout, "cali-a"), entry(layout, "ERROR"))
	for _, n := range []int{0, 1, 112, 144, len(table) - 1, len(table)} {
		f.Add(table[:n], uint32(1<<1), uint32(0))
	}
	f.Fuzz(func(t *testing.T, b []byte, hooks, first uint32) {
		info := legacyInfo{ValidHooks: hooks, Size: uint32(len(b)), Entries: 4}
		info.HookEntry[1] = first
		for _, y := range []entryLayout{layout, {140, 142, 168}} {
			found, _ := y.parse(b, info)
			for chain, list := range found {
				if n := strings.Count(list, " "); n > len(b)/y.length {
					t.Errorf("chain %q has %d rules in %d bytes", chain, n, len(b))
				}
			}
			_ = found.hooks()
		}
	})
}

// entry is one of a legacy table: a rule with comments, or the head of a chain.
func entry(y entryLayout, head string, comments ...string) []byte {
	const errorName = 32
	b := make([]byte, y.length)
	for _, c := range comments {
		m := make([]byte, partData+256)
		binary.NativeEndian.PutUint16(m, uint16(len(m)))
		copy(m[partName:], "comment")
		copy(m[partData:], c)
		b = append(b, m...)
	}
	target := make([]byte, partData+errorName)
	if head != "" {
		copy(target[partName:], "ERROR")
		copy(target[partData:], head)
	}
	binary.NativeEndian.PutUint16(target, uint16(len(target)))
	binary.NativeEndian.PutUint16(b[y.targetOffset:], uint16(len(b)))
	binary.NativeEndian.PutUint16(b[y.nextOffset:], uint16(len(b)+len(target)))
	return append(b, target...)
}

// TestTheBeginningOfALegacyTable has entries as the kernel shows them, whole, cut and damaged, in
// the layouts of both families.
func TestTheBeginningOfALegacyTable(t *testing.T) {
	t.Parallel()
	for _, y := range []entryLayout{{88, 90, 112}, {140, 142, 168}} {
		policy := entry(y, "")
		input := slices.Concat(entry(y, "", "why", "cali:one"), entry(y, ""), entry(y, "", "cali:two"), policy)
		forward := slices.Concat(entry(y, "", "cali:three"), policy)
		docker := slices.Concat(entry(y, "DOCKER"), entry(y, ""), policy)
		b := slices.Concat(input, forward, docker, entry(y, "cali-a"), entry(y, "", "cali:own"), policy, entry(y, "ERROR"))
		info := legacyInfo{ValidHooks: 1<<1 | 1<<2, Size: uint32(len(b))}
		info.HookEntry[2] = uint32(len(input))
		want := lead{"INPUT": "one - two ", "FORWARD": "three ", "DOCKER": "- "}
		found, complete := y.parse(b, info)
		if d := cmp.Diff(want, found); d != "" || !complete {
			t.Errorf("complete is %v; (-want +got):\n%s", complete, d)
		}
		upTo := len(input) + len(forward) + len(docker)
		for n := range upTo {
			if found, complete := y.parse(b[:n], info); complete {
				t.Fatalf("cut at %d, the table is complete: %v", n, found)
			}
		}
		for _, damage := range []func(b []byte){
			func(b []byte) { binary.NativeEndian.PutUint16(b[y.nextOffset:], 0) },
			func(b []byte) { binary.NativeEndian.PutUint16(b[y.nextOffset:], 65535) },
			func(b []byte) { binary.NativeEndian.PutUint16(b[y.targetOffset:], 0) },
			func(b []byte) { binary.NativeEndian.PutUint16(b[y.targetOffset:], 65535) },
		} {
			bad := bytes.Clone(b)
			damage(bad)
			if found, complete := y.parse(bad, info); complete || len(found) > 0 {
				t.Errorf("a damaged entry is read as %v, %v", found, complete)
			}
		}
		for _, size := range []uint16{0, partData - 1, 65535} { // of the first match
			bad := bytes.Clone(b)
			binary.NativeEndian.PutUint16(bad[y.length:], size)
			if found, _ := y.parse(bad, info); !strings.HasPrefix(found["INPUT"], "- - two") {
				t.Errorf("with a match of size %d, INPUT is %q", size, found["INPUT"])
			}
		}
		c := contents{"INPUT": {rules: rulesOf("one", "", "two")}, "FORWARD": {rules: rulesOf("three")}, "DOCKER": {rules: rulesOf("")}, "cali-a": {}}
		if !want.agrees(c) {
			t.Error("the table does not agree with itself")
		}
		c["INPUT"] = readChain{rules: rulesOf("", "one", "two")}
		if want.agrees(c) {
			t.Error("a displaced rule agrees")
		}
		delete(c, "INPUT")
		if want.agrees(c) {
			t.Error("a chain that is gone agrees")
		}
	}
}

// TestOnlyChainsWithHooksCountInTheDigest leaves chains alone in which nothing of felix's stands.
func TestOnlyChainsWithHooksCountInTheDigest(t *testing.T) {
	t.Parallel()
	a := lead{"INPUT": "one - ", "OUTPUT": "- - ", "DOCKER": ""}
	if b := (lead{"INPUT": "one - ", "OUTPUT": "- - - "}); a.hooks() != b.hooks() {
		t.Error("rules of others count")
	}
	for _, b := range []lead{{"INPUT": "- one "}, {"INPUT": "one "}, {"OUTPUT": "one - "}, {"INPUT": "one - ", "OUTPUT": "one "}, {}} {
		if a.hooks() == b.hooks() {
			t.Errorf("%v has the digest of %v", b, a)
		}
	}
}

func TestABareLegacyTable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		hooks, entries uint32
		want           bool
	}{{0b01110, 4, true}, {0b01110, 5, false}, {0b11111, 6, true}, {0b11111, 5, false}, {0, 0, false}, {0, 1, false}} {
		if got := (legacyInfo{ValidHooks: c.hooks, Entries: c.entries}).bare(); got != c.want {
			t.Errorf("%+v: bare is %v", c, got)
		}
	}
}

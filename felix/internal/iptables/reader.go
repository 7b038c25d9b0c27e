package iptables

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"calico.internal/felix/internal/nlconn"
	"calico.internal/felix/internal/rules"
)

// reader reads a table of one family from the kernel.
type reader interface {
	read(ctx context.Context, t rules.Table) (contents, error)
	// native describes a rule of the table, as it was last read, that iptables' own tools do
	// not understand; it is empty when there is none.
	native(t rules.Table) string
	// docker are the interfaces that rules in Docker's chains of the filter table named when
	// it was last read.
	docker() []string
	// standing gives what keeps packets from meeting the rules of a table, and wakes one that
	// is dormant by wake.
	standing(t rules.Table, wake func(do func() error) error) error
	close()
}

// saveReader reads by iptables-save: the only way that tells the text of a legacy rule.
type saveReader struct {
	cmd     commands
	dockers []string
}

func (r *saveReader) read(ctx context.Context, t rules.Table) (contents, error) {
	text, err := r.cmd.save(ctx, t)
	if err != nil {
		return nil, fmt.Errorf("read table %s: %w", t, err)
	}
	c, err := parseSave(t, text)
	if err == nil && t == rules.Filter {
		r.dockers = dockerIn(text)
	}
	return c, err
}

func (*saveReader) native(rules.Table) string { return "" }

func (r *saveReader) docker() []string { return r.dockers }

// standing is always given: chains of legacy tables have their hooks from the kernel.
func (*saveReader) standing(rules.Table, func(func() error) error) error { return nil }

func (*saveReader) close() {}

// nftReader reads nf_tables itself. A rule that felix did not write may be of any form there,
// also of one at which iptables-nft-save gives the whole table up.
type nftReader struct {
	conn   *nlconn.Conn
	family uint8
	// natives are the descriptions of rules that iptables' tools do not understand.
	natives map[rules.Table]string
	dockers []string
}

func newNFTReader(f rules.Family) (*nftReader, error) {
	conn, err := nlconn.Dial(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	r := &nftReader{conn: conn, family: unix.AF_INET, natives: map[rules.Table]string{}}
	if f == rules.V6 {
		r.family = unix.AF_INET6
	}
	return r, nil
}

func (r *nftReader) close() { r.conn.Close() }

func (r *nftReader) native(t rules.Table) string { return r.natives[t] }

func (r *nftReader) docker() []string { return r.dockers }

// maxReads is how often a table is read anew because others wrote to it meanwhile.
const maxReads = 10

// undisturbed reads until nobody else writes meanwhile, which the error disturbed tells.
func undisturbed(disturbed error, read func() error) error {
	for range maxReads {
		if err := read(); err == nil || !errors.Is(err, disturbed) {
			return err
		}
	}
	return fmt.Errorf("%w: others write to the table all the time", errBusy)
}

// builtin are the chains that a table has from the first write to it on.
var builtin = map[rules.Table][]string{
	rules.Raw:    {"PREROUTING", "OUTPUT"},
	rules.Mangle: {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"},
	rules.NAT:    {"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"},
	rules.Filter: {"INPUT", "FORWARD", "OUTPUT"},
}

func (r *nftReader) read(_ context.Context, t rules.Table) (c contents, err error) {
	err = undisturbed(nl.ErrDumpInterrupted, func() error {
		c, err = r.readTable(t)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read nf_tables: %w", err)
	}
	return c, nil
}

// newContents are those of a table without any rule.
func newContents(t rules.Table) contents {
	c := contents{}
	for _, name := range builtin[t] {
		c[name] = readChain{}
	}
	return c
}

func (r *nftReader) readTable(t rules.Table) (contents, error) {
	c := newContents(t)
	err := r.dump(unix.NFT_MSG_GETCHAIN, nil, func(attrs []byte) {
		var table, name []byte
		nlconn.Attrs(attrs, func(typ uint16, value []byte) {
			switch typ {
			case unix.NFTA_CHAIN_TABLE:
				table = text(value)
			case unix.NFTA_CHAIN_NAME:
				name = text(value)
			}
		})
		if string(table) == string(t) {
			c[string(name)] = readChain{}
		}
	})
	if err != nil {
		return nil, err
	}
	delete(r.natives, t)
	if t == rules.Filter {
		r.dockers = nil
	}
	return c, r.readRules(t, "", c)
}

// readChain reads one chain.
func (r *nftReader) readChain(t rules.Table, name string) (readChain, error) {
	var c contents
	err := undisturbed(nl.ErrDumpInterrupted, func() error {
		c = contents{}
		return r.readRules(t, name, c)
	})
	return c[name], err
}

// readRules puts the rules of a table, or of one chain of it, into c.
func (r *nftReader) readRules(t rules.Table, chain string, c contents) error {
	var (
		name string
		list []Rule
	)
	filter := nlconn.Attr(nil, unix.NFTA_RULE_TABLE, nlconn.String(string(t)))
	if chain != "" {
		filter = nlconn.Attr(filter, unix.NFTA_RULE_CHAIN, nlconn.String(chain))
	}
	err := r.dump(unix.NFT_MSG_GETRULE, filter, func(attrs []byte) {
		rule := readRule(attrs)
		if string(rule.table) != string(t) {
			return
		}
		// The rules of a chain come one behind the other.
		if string(rule.chain) != name {
			c[name] = readChain{rules: list}
			name = string(rule.chain)
			list = c[name].rules
		}
		if Owned(name) {
			list = append(list, Rule{Hash: string(rule.hash)})
			return
		}
		list = append(list, Rule{Hash: string(rule.hash), Handle: rule.handle})
		r.noteDocker(t, rule)
		if rule.native != nil && r.natives[t] == "" {
			r.natives[t] = fmt.Sprintf("chain %s, handle %d, with %q", name, rule.handle, rule.native)
		}
	})
	c[name] = readChain{rules: list}
	delete(c, "")
	return err
}

// dump asks for all objects of a kind, and hands over the attributes of each.
func (r *nftReader) dump(message uint16, filter []byte, each func(attrs []byte)) error {
	return r.conn.Do(nlconn.Request{
		Type: unix.NFNL_SUBSYS_NFTABLES<<8 | message, Flags: unix.NLM_F_DUMP,
		Body: append(nlconn.Netfilter(r.family), filter...),
	}, func(body []byte) error {
		each(body[min(nlconn.NetfilterHeader, len(body)):])
		return nil
	})
}

// deleteRule deletes one rule. One that is gone already is no fault, but no transaction
// either, and gone says so.
func (r *nftReader) deleteRule(t rules.Table, h hookRef) error {
	body := nlconn.Netfilter(r.family)
	body = nlconn.Attr(body, unix.NFTA_RULE_TABLE, nlconn.String(string(t)))
	body = nlconn.Attr(body, unix.NFTA_RULE_CHAIN, nlconn.String(h.chain))
	body = nlconn.Attr(body, unix.NFTA_RULE_HANDLE, binary.BigEndian.AppendUint64(nil, h.handle))
	err := r.conn.Transact(unix.NFNL_SUBSYS_NFTABLES, nlconn.Request{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELRULE, Body: body})
	if errors.Is(err, syscall.ENOENT) {
		return errGone
	}
	return err
}

// errGone is returned for a rule that was to be deleted and is not there.
var errGone = errors.New("the rule is gone already")

// kernelRule is a rule as the kernel shows it. The slices are valid until the next one.
type kernelRule struct {
	table, chain []byte
	handle       uint64
	hash         []byte
	// native is an expression that iptables' tools do not understand.
	native []byte
	// interfaces are those that a rule of Docker's names; asksInterface says that the next
	// expression compares one.
	interfaces    []string
	asksInterface bool
}

// understood are the expressions of which iptables-nft makes its rules.
var understood = map[string]bool{
	"match": true, "target": true, "payload": true, "meta": true, "cmp": true, "bitwise": true, "counter": true,
	"immediate": true, "lookup": true, "range": true, "limit": true, "log": true,
}

// readRule finds felix's mark in the first of a rule's comments that has one. A comment is a
// match of its own, or stands in the user's data.
func readRule(attrs []byte) kernelRule {
	var rule kernelRule
	nlconn.Attrs(attrs, func(typ uint16, value []byte) {
		switch typ {
		case unix.NFTA_RULE_TABLE:
			rule.table = text(value)
		case unix.NFTA_RULE_CHAIN:
			rule.chain = text(value)
		case unix.NFTA_RULE_HANDLE:
			if len(value) == 8 {
				rule.handle = binary.BigEndian.Uint64(value)
			}
		case unix.NFTA_RULE_EXPRESSIONS:
			nlconn.Attrs(value, func(_ uint16, expression []byte) { rule.addExpression(expression) })
		case unix.NFTA_RULE_USERDATA:
			rule.addUserData(value)
		}
	})
	return rule
}

func (r *kernelRule) addExpression(attrs []byte) {
	var name, data []byte
	nlconn.Attrs(attrs, func(typ uint16, value []byte) {
		switch typ {
		case unix.NFTA_EXPR_NAME:
			name = text(value)
		case unix.NFTA_EXPR_DATA:
			data = value
		}
	})
	if !understood[string(name)] {
		r.native = name
	}
	r.addInterface(string(name), data)
	if r.hash != nil || string(name) != "match" {
		return
	}
	var match, info []byte
	nlconn.Attrs(data, func(typ uint16, value []byte) {
		switch typ {
		case unix.NFTA_MATCH_NAME:
			match = text(value)
		case unix.NFTA_MATCH_INFO:
			info = value
		}
	})
	if string(match) == "comment" {
		r.hash = hashOf(info)
	}
}

// userDataComment is the type of a comment in the user's data of a rule, which is a list of
// values behind their types and lengths, of a byte each.
const userDataComment = 0

func (r *kernelRule) addUserData(data []byte) {
	for len(data) >= 2 {
		typ, length := data[0], int(data[1])
		data = data[2:]
		if length > len(data) {
			return
		}
		if typ == userDataComment && r.hash == nil {
			r.hash = hashOf(data[:length])
		}
		data = data[length:]
	}
}

// hashOf is the hash in a comment, up to a zero byte, or nil.
func hashOf(comment []byte) []byte {
	comment, _, _ = bytes.Cut(comment, []byte{0})
	hash, found := bytes.CutPrefix(comment, []byte(commentPrefix))
	if !found || !isHash(hash) {
		return nil
	}
	return hash
}

// text is a string of the kernel's, without the zero byte at its end.
func text(b []byte) []byte { return bytes.TrimSuffix(b, []byte{0}) }

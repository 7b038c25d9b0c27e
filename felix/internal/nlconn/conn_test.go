package nlconn

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"calico.internal/libcalico/nettest"
)

// link is a request to make an interface of a kind, or to delete it.
func link(typ uint16, flags uint16, name, kind string) Request {
	body := make([]byte, unix.SizeofIfInfomsg)
	body = Attr(body, unix.IFLA_IFNAME, String(name))
	if kind != "" {
		body = Attr(body, unix.IFLA_LINKINFO|Nested, Attr(nil, unix.IFLA_INFO_KIND, []byte(kind)))
	}
	return Request{Type: typ, Flags: flags, Body: body}
}

func dial(t *testing.T) *Conn {
	t.Helper()
	nettest.Isolate(t)
	c, err := Dial(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestBatchGivesEachRequestItsAnswer(t *testing.T) {
	c := dial(t)
	const create = unix.NLM_F_CREATE | unix.NLM_F_EXCL
	var reqs []Request
	for range 2*maxBatch + 1 {
		reqs = append(reqs, link(unix.RTM_NEWLINK, create, "br0", "bridge"))
	}
	reqs = append(reqs, link(unix.RTM_DELLINK, 0, "br0", ""), link(unix.RTM_DELLINK, 0, "br0", ""))
	results, err := c.Batch(reqs)
	if err != nil || len(results) != len(reqs) {
		t.Fatalf("%d results, %v", len(results), err)
	}
	for i, got := range results {
		var want error
		switch {
		case i == len(reqs)-1:
			want = unix.ENODEV
		case i > 0 && i < len(reqs)-2:
			want = unix.EEXIST
		}
		if !errors.Is(got, want) {
			t.Errorf("request %d: got %v, want %v", i, got, want)
		}
	}
	if results, err := c.Batch(nil); err != nil || len(results) != 0 {
		t.Errorf("an empty batch: %v, %v", results, err)
	}
}

func TestBatchOfLargeRequests(t *testing.T) {
	c := dial(t)
	var reqs []Request
	for range 64 { // 1 MiB
		r := link(unix.RTM_DELLINK, 0, "absent", "")
		r.Body = Attr(r.Body, 0x3fff, make([]byte, 16*1024))
		reqs = append(reqs, r)
	}
	results, err := c.Batch(reqs)
	if err != nil || len(results) != len(reqs) {
		t.Fatalf("%d results, %v", len(results), err)
	}
	for i, got := range results {
		if !errors.Is(got, unix.ENODEV) {
			t.Errorf("request %d: got %v, want %v", i, got, unix.ENODEV)
		}
	}
}

func TestDoReadsADump(t *testing.T) {
	c := dial(t)
	for range 3 { // answers do not mix
		var names []string
		err := c.Do(Request{Type: unix.RTM_GETLINK, Flags: unix.NLM_F_DUMP, Body: make([]byte, unix.SizeofIfInfomsg)}, func(body []byte) error {
			Attrs(body[unix.SizeofIfInfomsg:], func(typ uint16, value []byte) {
				if typ == unix.IFLA_IFNAME {
					names = append(names, string(value[:len(value)-1]))
				}
			})
			return nil
		})
		if err != nil || len(names) == 0 || names[0] != "lo" {
			t.Errorf("got %q, %v", names, err)
		}
	}
	fault := errors.New("stop")
	err := c.Do(Request{Type: unix.RTM_GETLINK, Flags: unix.NLM_F_DUMP, Body: make([]byte, unix.SizeofIfInfomsg)}, func([]byte) error { return fault })
	if !errors.Is(err, fault) {
		t.Errorf("got %v", err)
	}
	if err := c.Do(link(unix.RTM_DELLINK, unix.NLM_F_ACK, "absent", ""), nil); !errors.Is(err, unix.ENODEV) {
		t.Errorf("got %v", err)
	}
}

func TestAPacketThatIsTooLongIsAnError(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0]) //nolint:errcheck // nothing is lost
	defer unix.Close(pair[1]) //nolint:errcheck // nothing is lost
	if err := unix.Send(pair[0], make([]byte, packetSize+1), 0); err != nil {
		t.Fatal(err)
	}
	err = newInbox().receive(pair[1], func(message) { t.Error("a part of it was taken for a message") })
	if !errors.Is(err, errTruncated) {
		t.Errorf("got %v, want %v", err, errTruncated)
	}
}

func TestAttributes(t *testing.T) {
	b := Attr(nil, 1, []byte("abc"))
	b = Attr(b, 2|Nested, Attr(nil, 3|NetOrder, []byte{1, 2, 3, 4, 5}))
	b = Attr(b, 4, nil)
	got := map[uint16]string{}
	Attrs(b, func(typ uint16, value []byte) { got[typ] = string(value) })
	var inner []byte
	Attrs([]byte(got[2]), func(typ uint16, value []byte) {
		if typ == 3 {
			inner = value
		}
	})
	if d := cmp.Diff("\x01\x02\x03\x04\x05", string(inner)); d != "" || got[1] != "abc" || len(got) != 3 {
		t.Errorf("got %v: %s", got, d)
	}
}

// FuzzAttrs reads whatever comes without a panic.
func FuzzAttrs(f *testing.F) {
	f.Add(Attr(nil, 1, []byte("abc")))
	f.Add([]byte{3, 0, 1, 0})
	f.Fuzz(func(_ *testing.T, b []byte) {
		Attrs(b, func(_ uint16, value []byte) { Attrs(value, func(uint16, []byte) {}) })
	})
}

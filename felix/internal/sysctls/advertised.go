package sysctls

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
)

// The values of accept_ra and of forwarding that matter here.
const (
	off = "0"
	// untilForwarding takes advertisements while the interface does not forward.
	untilForwarding = "1"
	// always takes them whether it forwards or not.
	always = "2"
)

// confIPv6 holds a folder of settings for each interface, and two more: "all", whose
// accept_ra means nothing, and "default", which new interfaces start with.
const confIPv6 = "net/ipv6/conf"

// forwardsIPv6 reports whether a setting switches forwarding of IPv6, on all interfaces or
// on one. Also when it is one, the kernel drops default routes of all.
func forwardsIPv6(key Key) bool {
	ok, err := path.Match(confIPv6+"/*/forwarding", string(key))
	return ok && err == nil
}

// keepAdvertisedRoutes raises accept_ra where the host takes advertisements now and would
// not once it forwards. An interface on which it takes none stays so. New interfaces
// are treated alike, by their default: they would have taken advertisements, too.
func (t *Target) keepAdvertisedRoutes() error {
	entries, err := os.ReadDir(t.path(confIPv6))
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	var raised []string
	var errs []error
	for _, e := range entries {
		done, err := t.raise(e.Name())
		switch {
		case errors.Is(err, fs.ErrNotExist): // an interface that has just gone
		case err != nil:
			errs = append(errs, fmt.Errorf("accept_ra of %s: %w", e.Name(), err))
		case done:
			raised = append(raised, e.Name())
		}
	}
	if len(raised) > 0 && t.host.Raised != nil {
		slices.Sort(raised)
		t.host.Raised(raised)
	}
	return errors.Join(errs...)
}

func (t *Target) raise(iface string) (done bool, err error) {
	if iface == "all" || iface == "lo" || t.host.Own != nil && !t.host.Own(iface) {
		return false, nil
	}
	accept, forwarding := Key(path.Join(confIPv6, iface, "accept_ra")), Key(path.Join(confIPv6, iface, "forwarding"))
	for key, now := range map[Key]string{accept: untilForwarding, forwarding: off} {
		if value, err := t.Read(key); err != nil || value != now {
			return false, err
		}
	}
	return true, t.write(accept, always)
}

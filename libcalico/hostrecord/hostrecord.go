// Package hostrecord keeps what a host remembers about itself when etcd is away or has
// lost its data: a file that the start-up writes and all programs read. Whoever loses it
// loses nothing while etcd is there.
package hostrecord

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"time"

	"calico.internal/libcalico/wholefile"
)

// DefaultDir is the directory of the record.
const DefaultDir = "/var/lib/calico"

// DirVariable is the environment variable that names another directory.
const DirVariable = "CALICO_STATE_DIR"

const file = "node.json"

// Dir is the directory of the record as the environment has it.
func Dir(getenv func(string) string) string {
	if dir := getenv(DirVariable); dir != "" {
		return dir
	}
	return DefaultDir
}

// Record is what a host remembers.
type Record struct {
	// Name is the host's in etcd.
	Name string `json:"name,omitempty"`
	// ClusterGUID is the id of the cluster that the host belongs to.
	ClusterGUID string `json:"cluster_guid,omitempty"`
	// ID is the host's own id ([Identity]); empty until it is made.
	ID string `json:"id,omitempty"`
	// IPv4 and IPv6 are the addresses that the host last had as a node, and IPv4Net and
	// IPv6Net their networks; invalid where it had none.
	IPv4    netip.Addr   `json:"ipv4,omitzero"`
	IPv6    netip.Addr   `json:"ipv6,omitzero"`
	IPv4Net netip.Prefix `json:"ipv4_net,omitzero"`
	IPv6Net netip.Prefix `json:"ipv6_net,omitzero"`
	// Programs are those that had to run on the host when it last started, and Backend is
	// its kind of BGP: gobgp or none.
	Programs []string `json:"programs,omitempty"`
	Backend  string   `json:"backend,omitempty"`

	// Lost says that an earlier record could not be read: the host may have been a node.
	Lost bool `json:"lost,omitempty"`

	// rest are the fields that others have put in, which stay as they are.
	rest map[string]json.RawMessage
}

// Member says whether the host has been a node of a cluster before, or may have been. A record
// of its id alone does not say so.
func (r Record) Member() bool { return r.Name != "" || r.ClusterGUID != "" || r.Lost }

// Read reads the record in a directory; found is false when there is none.
func Read(dir string) (r Record, found bool, err error) {
	path := filepath.Join(dir, file)
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Record{}, false, nil
	case err != nil:
		return Record{}, false, fmt.Errorf("this host's record: %w", err)
	}
	if r, err = parse(text); err != nil {
		return Record{}, true, fmt.Errorf("this host's record %s: %w", path, err)
	}
	return r, true, nil
}

func parse(text []byte) (r Record, err error) {
	if err := json.Unmarshal(text, &r.rest); err != nil {
		return Record{}, err
	}
	if r.rest == nil {
		return Record{}, errors.New("it holds null, not a record")
	}
	err = json.Unmarshal(text, &r)
	if mistyped, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return Record{}, &newerError{mistyped}
	}
	if err != nil {
		return Record{}, err
	}
	if len(r.rest) == 0 {
		return Record{}, errors.New("it is empty: it names neither this host nor its id")
	}
	for field := range reflect.TypeFor[Record]().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		delete(r.rest, name)
	}
	return r, nil
}

// Write replaces the record in a directory, which is made if it is not there. Only root
// may read it.
func Write(dir string, r Record) error {
	return locked(dir, func() error { return write(dir, r) })
}

// Update changes the record in a directory, which is made if it is not there: no other
// program of the host changes it meanwhile. One that is damaged is made anew; one that a newer
// version wrote otherwise is refused, and stays.
func Update(dir string, change func(*Record)) error {
	return locked(dir, func() error {
		r, _, err := Read(dir)
		if err != nil && !damaged(err) {
			return err
		}
		r.Lost = r.Lost || err != nil
		change(&r)
		return write(dir, r)
	})
}

// newerError says that a field has another type than here, as a newer version may have it: the
// record is whole, and to write it would lose the field.
type newerError struct{ field *json.UnmarshalTypeError }

func (e *newerError) Error() string {
	return fmt.Sprintf("%s is not of the kind that this version knows (%v): it stays as a newer version wrote it; run that one, or remove the file", e.field.Field, e.field)
}

// damaged says that a record is there, and is none.
func damaged(err error) bool {
	_, file := errors.AsType[*fs.PathError](err)
	_, newer := errors.AsType[*newerError](err)
	return !file && !newer
}

func write(dir string, r Record) error {
	own, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("this host's record: %w", err)
	}
	fields := maps.Clone(r.rest)
	if err := json.Unmarshal(own, &fields); err != nil {
		return fmt.Errorf("this host's record: %w", err)
	}
	text, err := json.MarshalIndent(fields, "", "  ")
	if err != nil {
		return fmt.Errorf("this host's record: %w", err)
	}
	if err := replace(filepath.Join(dir, file), append(text, '\n')); err != nil {
		return fmt.Errorf("this host's record: %w", err)
	}
	return nil
}

// lockWait is how long another program of this host may take to change the record, and lockLook
// how often it is looked whether it is done.
const (
	lockWait = 10 * time.Second
	lockLook = 20 * time.Millisecond
)

// locked does something while no other program of this host changes the record.
func locked(dir string, do func() error) error {
	if err := makeDir(dir); err != nil {
		return fmt.Errorf("this host's record: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("this host's record: %w", err)
	}
	defer d.Close() //nolint:errcheck // nothing was written; it ends the lock
	look := time.NewTicker(lockLook)
	defer look.Stop()
	for began := time.Now(); ; {
		err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return do()
		case errors.Is(err, syscall.EINTR):
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return fmt.Errorf("this host's record: lock %s: %w", dir, err)
		case time.Since(began) > lockWait:
			return fmt.Errorf("this host's record: another program has locked %s for more than %s: end it (lsof %s, /proc/locks)", dir, lockWait, dir)
		}
		<-look.C
	}
}

// Keep makes a file in a directory, which is made if it is not there, hold a text, or leaves
// it as it is, also when the host loses power. Only root may read it. It is for what else a
// program remembers on its host.
func Keep(dir, name string, text []byte) error {
	return locked(dir, func() error { return replace(filepath.Join(dir, name), text) })
}

// makeDir makes the directory. Docker makes what it mounts readable for everybody; the
// directory that is ours alone is closed again.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil || filepath.Clean(dir) != DefaultDir {
		return err
	}
	return os.Chmod(dir, 0o700)
}

// replace makes a file hold a text, or leaves it as it is. The directory is locked, so what
// others have begun is of programs that were killed.
func replace(path string, text []byte) error {
	if err := wholefile.Clean(path); err != nil {
		return err
	}
	return wholefile.Write(path, 0o600, text)
}

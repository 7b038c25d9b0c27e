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
	"os"
	"path/filepath"
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
	Name string
	// ClusterGUID is the id of the cluster that the host belongs to.
	ClusterGUID string

	// rest are the fields that others have put in, which stay as they are.
	rest map[string]json.RawMessage
}

// Fields of the file.
const (
	nameField = "name"
	guidField = "cluster_guid"
)

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
	for name, to := range map[string]*string{nameField: &r.Name, guidField: &r.ClusterGUID} {
		raw, ok := r.rest[name]
		if !ok {
			continue
		}
		if err := json.Unmarshal(raw, to); err != nil {
			return Record{}, fmt.Errorf("%s: %w", name, err)
		}
	}
	return r, nil
}

// Write replaces the record in a directory, which is made if it is not there. Only root
// may read it.
func Write(dir string, r Record) error {
	fields := map[string]any{}
	for name, raw := range r.rest {
		fields[name] = raw
	}
	maps.Copy(fields, map[string]any{nameField: r.Name, guidField: r.ClusterGUID})
	text, err := json.MarshalIndent(fields, "", "  ")
	if err != nil {
		return fmt.Errorf("this host's record: %w", err)
	}
	if err := makeDir(dir); err != nil {
		return fmt.Errorf("this host's record: %w", err)
	}
	if err := replace(filepath.Join(dir, file), append(text, '\n')); err != nil {
		return fmt.Errorf("this host's record: %w", err)
	}
	return nil
}

// makeDir makes the directory. Docker makes what it mounts readable for everybody; the
// directory that is ours alone is closed again.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil || filepath.Clean(dir) != DefaultDir {
		return err
	}
	return os.Chmod(dir, 0o700)
}

// replace makes a file hold a text, or leaves it as it is, also when the host loses power.
func replace(path string, text []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

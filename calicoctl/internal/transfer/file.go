package transfer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
	"unicode/utf8"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// The type of an exported file.
const (
	fileVersion = "calico.internal/v1"
	fileKind    = "datastoreExport"
)

// file is the form of an export.
type file struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Exported   time.Time `json:"exported"`
	// Values are texts by path; what is not text is in Binary.
	Values map[string]string `json:"values"`
	Binary map[string][]byte `json:"binary,omitempty"`
}

// Export writes everything in a datastore but what running programs report, as one
// JSON document, and returns the number of keys.
func Export(ctx context.Context, c *etcdstore.Client, w io.Writer, now time.Time) (int, error) {
	values, err := read(ctx, c)
	if err != nil {
		return 0, err
	}
	f := file{APIVersion: fileVersion, Kind: fileKind, Exported: now.UTC().Truncate(time.Second), Values: map[string]string{}}
	for path, value := range values {
		if k, ok := model.ParsePath(path); ok && isReport(k) {
			continue
		}
		if utf8.Valid(value) {
			f.Values[path] = string(value)
			continue
		}
		if f.Binary == nil {
			f.Binary = map[string][]byte{}
		}
		f.Binary[path] = value
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return len(f.Values) + len(f.Binary), enc.Encode(f)
}

func isReport(k model.Key) bool { return slices.Contains(reports, k.Kind()) }

// ReadFile reads what [Export] wrote.
func ReadFile(name string, data []byte) (Dump, error) {
	var f file
	if err := json.Unmarshal(data, &f); err != nil {
		return Dump{}, fmt.Errorf("%s is not an export: %w", name, err)
	}
	if f.APIVersion != fileVersion || f.Kind != fileKind {
		return Dump{}, fmt.Errorf("%s is not an export: expected apiVersion %s and kind %s", name, fileVersion, fileKind)
	}
	d := Dump{Source: name, Values: map[string][]byte{}}
	for path, value := range f.Values {
		d.Values[path] = []byte(value)
	}
	maps.Copy(d.Values, f.Binary)
	if len(d.Values) == 0 {
		return d, errors.New(name + " holds nothing")
	}
	return d, nil
}

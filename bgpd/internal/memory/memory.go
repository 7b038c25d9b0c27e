// Package memory keeps on the host's disk what bgpd needs to go on without etcd: the last
// document that was in force, and what its calculation last used of etcd. It is an edge: to
// a file. Whoever loses it loses nothing while etcd is there.
package memory

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"calico.internal/libcalico/hostrecord"
)

// File is the name of the file in the directory of what a host remembers. It may hold
// passwords of peers, as the document does.
const File = "bgpd.json"

// version is that of the file's format. Another one is not read: what it means may be
// another thing.
const version = 1

// Record is what is remembered.
type Record struct {
	// Node is the host's name in etcd, and ClusterGUID the id of its cluster, empty when that
	// is not known: the record of another is nobody's.
	Node        string `json:"node"`
	ClusterGUID string `json:"cluster_guid"`
	// Written is when the record was written, which is when anything in it last changed.
	Written time.Time `json:"written,omitzero"`
	// Document is the text of the configuration.
	Document string `json:"document"`
	// Resources are values of etcd by path, cut down to what is used.
	Resources map[string]string `json:"resources"`
}

// envelope is the file. A file is replaced as a whole, so that only a damaged disk, or a
// hand, makes the sum wrong.
type envelope struct {
	Version int             `json:"version"`
	Sum     string          `json:"sha256"`
	Record  json.RawMessage `json:"record"`
}

func sumOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// Read reads the record of a node of a cluster; found is false when there is none. The
// error says why the one that is there is of no use.
func Read(dir, node, clusterGUID string) (r Record, found bool, err error) {
	path := filepath.Join(dir, File)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, false, nil
	}
	if err == nil {
		r, err = decode(text)
	}
	switch {
	case err != nil:
		return Record{}, false, fmt.Errorf("%s: %w", path, err)
	case r.Node != node:
		return Record{}, false, fmt.Errorf("%s is of node %q, but this host is %q", path, r.Node, node)
	case r.ClusterGUID != clusterGUID:
		return Record{}, false, fmt.Errorf("%s is of the cluster with the GUID %q, but this host's is %q", path, r.ClusterGUID, clusterGUID)
	}
	return r, true, nil
}

func decode(text []byte) (r Record, err error) {
	var e envelope
	if err := json.Unmarshal(text, &e); err != nil {
		return Record{}, fmt.Errorf("it is damaged: %w", err)
	}
	if e.Version != version {
		return Record{}, fmt.Errorf("its format is %d, this bgpd reads %d", e.Version, version)
	}
	if sumOf(e.Record) != e.Sum {
		return Record{}, errors.New("it is damaged: its content is not what was written")
	}
	if err := json.Unmarshal(e.Record, &r); err != nil {
		return Record{}, fmt.Errorf("it is damaged: %w", err)
	}
	return r, nil
}

func encode(r Record) ([]byte, error) {
	record, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	return json.Marshal(envelope{Version: version, Sum: sumOf(record), Record: record})
}

// content is what of a record must differ for it to be written again.
func content(r Record) (string, error) {
	r.Written = time.Time{}
	text, err := json.Marshal(r)
	return sumOf(text), err
}

func write(dir string, r Record) (size int, err error) {
	text, err := encode(r)
	if err != nil {
		return 0, err
	}
	return len(text), hostrecord.Keep(dir, File, text)
}

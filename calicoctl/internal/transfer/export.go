package transfer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"
	"unicode/utf8"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// The type of an exported file.
const (
	fileVersion = "calico.internal/v1"
	fileKind    = "datastoreExport"
)

// Exporting says what to export, and how.
type Exporting struct {
	Store *etcdstore.Client
	Now   time.Time
	// Revision is the one at which the datastore is read; 0 is the present one.
	Revision int64
	// Edit, if it is not nil, changes each value on its way.
	Edit func(path string, value []byte) []byte
}

// Each calls f for everything in a datastore but what running programs report, and returns
// the revision at which it was read.
func (e Exporting) Each(ctx context.Context, f func(path string, value []byte) error) (int64, error) {
	return e.Store.EachStored(ctx, model.Root, e.Revision, func(kv *mvccpb.KeyValue) error {
		path := string(kv.Key)
		if k, ok := model.ParsePath(path); kv.Lease != 0 || ok && (isReport(k) || k.Kind() == model.KindLock) {
			return nil
		}
		value := kv.Value
		if e.Edit != nil {
			value = e.Edit(path, value)
		}
		return f(path, value)
	})
}

// Write writes all of it as one JSON document, and returns the number of keys. However much
// there is, little of it is in memory at a time.
func (e Exporting) Write(ctx context.Context, w io.Writer) (keys int, err error) {
	head, err := json.Marshal(e.Now.UTC().Truncate(time.Second))
	if err != nil {
		return 0, err
	}
	if _, err := fmt.Fprintf(w, "{\n  \"apiVersion\": %q,\n  \"kind\": %q,\n  \"exported\": %s", fileVersion, fileKind, head); err != nil {
		return 0, err
	}
	texts, binary := members{w: w, name: "values"}, 0
	e.Revision, err = e.Each(ctx, func(path string, value []byte) error {
		if !utf8.Valid(value) {
			binary++
			return nil
		}
		return texts.add(path, string(value))
	})
	if err == nil {
		err = texts.end(true)
	}
	if err == nil && binary > 0 {
		err = e.writeBinary(ctx, w)
	}
	if err == nil {
		_, err = io.WriteString(w, "\n}\n")
	}
	return texts.n + binary, err
}

// writeBinary writes what is not text, which is rare, in a second reading.
func (e Exporting) writeBinary(ctx context.Context, w io.Writer) error {
	binary := members{w: w, name: "binary"}
	_, err := e.Each(ctx, func(path string, value []byte) error {
		if utf8.Valid(value) {
			return nil
		}
		return binary.add(path, value)
	})
	if err != nil {
		return err
	}
	return binary.end(false)
}

// members writes an object of a JSON document, member by member.
type members struct {
	w    io.Writer
	name string
	n    int
	text bytes.Buffer
}

func (m *members) add(name string, value any) error {
	m.text.Reset()
	if m.n == 0 {
		fmt.Fprintf(&m.text, ",\n  %q: {", m.name)
	} else {
		m.text.WriteByte(',')
	}
	m.n++
	m.text.WriteString("\n    ")
	enc := json.NewEncoder(&m.text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(name); err != nil {
		return err
	}
	m.text.Truncate(m.text.Len() - 1) // the encoder's line end
	m.text.WriteString(": ")
	if err := enc.Encode(value); err != nil {
		return err
	}
	m.text.Truncate(m.text.Len() - 1)
	_, err := m.w.Write(m.text.Bytes())
	return err
}

// end closes the object; one without members is only there if it must be.
func (m *members) end(must bool) error {
	switch {
	case m.n > 0:
		_, err := io.WriteString(m.w, "\n  }")
		return err
	case must:
		_, err := fmt.Fprintf(m.w, ",\n  %q: {}", m.name)
		return err
	}
	return nil
}

// reports are the kinds that running programs write anew by themselves.
var reports = []model.Kind{model.KindHistory, model.KindLiveness, model.KindFelixStatus, model.KindEndpointStatus}

func isReport(k model.Key) bool { return slices.Contains(reports, k.Kind()) }

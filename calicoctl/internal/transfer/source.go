package transfer

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Source is the contents of another datastore. It can be read as often as need be.
type Source struct {
	// Name is how messages call it.
	Name string
	each func(f func(path string, value []byte) error) error
}

// File is a source that [Exporting.Write] has written. Little of it is in memory at a time.
// It fails if that is not what the file is.
func File(name string, r io.ReadSeeker) (Source, error) {
	return rereadable(name, r, readFile, name+" holds nothing")
}

// rereadable is a source that read reads, from the beginning each time. It fails if that does
// not succeed, or finds nothing.
func rereadable(name string, r io.ReadSeeker, read func(string, io.Reader, func(string, []byte) error) error, nothing string) (Source, error) {
	s := Source{Name: name, each: func(f func(string, []byte) error) error {
		if _, err := r.Seek(0, io.SeekStart); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return read(name, r, f)
	}}
	n := 0
	err := s.each(func(string, []byte) error {
		n++
		return nil
	})
	if err == nil && n == 0 {
		err = errors.New(nothing)
	}
	return s, err
}

const fileBuffer = 256 << 10

// readFile calls f for all values of an exported file.
func readFile(name string, r io.Reader, f func(path string, value []byte) error) error {
	broken := func(err error) error {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("%s is not an export: %w", name, err)
	}
	dec := json.NewDecoder(bufio.NewReaderSize(r, fileBuffer))
	var version, kind string
	var own error // what f returned
	err := eachMember(dec, func(field string) error {
		switch field {
		case "apiVersion":
			return dec.Decode(&version)
		case "kind":
			return dec.Decode(&kind)
		case "values":
			return eachMember(dec, func(path string) error {
				var text string
				if err := dec.Decode(&text); err != nil {
					return err
				}
				own = f(path, []byte(text))
				return own
			})
		case "binary":
			return eachMember(dec, func(path string) error {
				var value []byte
				if err := dec.Decode(&value); err != nil {
					return err
				}
				own = f(path, value)
				return own
			})
		default:
			return dec.Decode(new(json.RawMessage))
		}
	})
	switch {
	case own != nil:
		return own
	case err != nil:
		return broken(err)
	case version != fileVersion || kind != fileKind:
		return fmt.Errorf("%s is not an export: expected apiVersion %s and kind %s", name, fileVersion, fileKind)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s is not an export: something follows after its end", name)
	}
	return nil
}

// eachMember calls f for the name of each member of a JSON object, whose value f reads.
func eachMember(dec *json.Decoder, f func(name string) error) error {
	open, err := dec.Token()
	if err != nil {
		return err
	}
	if open != json.Delim('{') {
		return fmt.Errorf("expected an object, found %v", open)
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return err
		}
		text, _ := name.(string) // the decoder takes nothing else
		if err := f(text); err != nil {
			return err
		}
	}
	_, err = dec.Token()
	return err
}

// eachItem calls f for each item of a JSON array, which f reads; null has none.
func eachItem(dec *json.Decoder, f func() error) error {
	open, err := dec.Token()
	if err != nil || open == nil {
		return err
	}
	if open != json.Delim('[') {
		return fmt.Errorf("expected a list, found %v", open)
	}
	for dec.More() {
		if err := f(); err != nil {
			return err
		}
	}
	_, err = dec.Token()
	return err
}

package model

import (
	"fmt"
	"strconv"
	"strings"
)

// ParseASNumber reads an AS number in decimal ("64512") or as "high.low" with 16
// bits each.
func ParseASNumber(s string) (ASNumber, error) {
	high, low, dotted := strings.Cut(s, ".")
	if !dotted {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			return 0, badASNumber(s)
		}
		return ASNumber(n), nil
	}
	h, err := strconv.ParseUint(high, 10, 16)
	if err != nil {
		return 0, badASNumber(s)
	}
	l, err := strconv.ParseUint(low, 10, 16)
	if err != nil {
		return 0, badASNumber(s)
	}
	return ASNumber(h<<16 | l), nil
}

func badASNumber(s string) error {
	return fmt.Errorf("%.40q is not an AS number (0 to 4294967295, or high.low)", s)
}

// String is the number in decimal.
func (n ASNumber) String() string { return strconv.FormatUint(uint64(n), 10) }

// Reserved reports whether n is nobody's own number: 0 (RFC 7607), 23456, which stands for
// a longer one (RFC 6793), or 4294967295 (RFC 7300).
func (n ASNumber) Reserved() bool { return n == 0 || n == 23456 || n == 1<<32-1 }

// MarshalText writes the number in decimal; in JSON that is a string.
func (n ASNumber) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText reads what [ParseASNumber] reads.
func (n *ASNumber) UnmarshalText(text []byte) (err error) {
	*n, err = ParseASNumber(string(text))
	return err
}

// UnmarshalJSON reads a number or a string. A dotted number must be a string: as a
// JSON number, 1.10 and 1.1 would be the same.
func (n *ASNumber) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	s, err := numberOrString(data)
	if err != nil {
		return fmt.Errorf("AS number: %w", err)
	}
	if data[0] != '"' && strings.Contains(s, ".") {
		return fmt.Errorf("AS number %.40s: write a dotted number in quotes", s)
	}
	return n.UnmarshalText([]byte(s))
}

package model

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// ParsePort reads "80", "8000:9000" or the name of an endpoint's port.
func ParsePort(s string) (Port, error) {
	if number, err := strconv.ParseUint(s, 10, 16); err == nil {
		return Port{First: uint16(number), Last: uint16(number)}, nil
	}
	first, last, isRange := strings.Cut(s, ":")
	if !isRange {
		if !isPortName(s) {
			return Port{}, fmt.Errorf("%.40q is neither a port (1 to 65535), nor a range (first:last), nor a name", s)
		}
		return Port{Name: s}, nil
	}
	low, err := strconv.ParseUint(first, 10, 16)
	if err != nil {
		return Port{}, fmt.Errorf("port range %.40q: %.20q is not a port", s, first)
	}
	high, err := strconv.ParseUint(last, 10, 16)
	if err != nil {
		return Port{}, fmt.Errorf("port range %.40q: %.20q is not a port", s, last)
	}
	return Port{First: uint16(low), Last: uint16(high)}, nil
}

// String is the form that [ParsePort] reads.
func (p Port) String() string {
	switch {
	case p.Name != "":
		return p.Name
	case p.First == p.Last:
		return strconv.Itoa(int(p.First))
	default:
		return strconv.Itoa(int(p.First)) + ":" + strconv.Itoa(int(p.Last))
	}
}

// MarshalJSON writes a single port as a number, anything else as a string.
func (p Port) MarshalJSON() ([]byte, error) {
	if p.Name == "" && p.First == p.Last {
		return strconv.AppendUint(nil, uint64(p.First), 10), nil
	}
	return json.Marshal(p.String())
}

// UnmarshalJSON reads a number or a string.
func (p *Port) UnmarshalJSON(data []byte) (err error) {
	s, err := numberOrString(data)
	if err != nil {
		return fmt.Errorf("port: %w", err)
	}
	*p, err = ParsePort(s)
	return err
}

// isPortName keeps names apart from numbers and ranges: a name has a letter.
func isPortName(s string) bool {
	return isName(s) && strings.ContainsFunc(s, isLetter)
}

// numberOrString gives the text of a JSON number or string.
func numberOrString(data []byte) (string, error) {
	if len(data) > 0 && data[0] == '"' {
		var s string
		err := json.Unmarshal(data, &s)
		return s, err
	}
	var n json.Number
	if err := json.Unmarshal(data, &n); err != nil || n == "" {
		return "", fmt.Errorf("%.40s is neither a number nor a string", data)
	}
	return n.String(), nil
}

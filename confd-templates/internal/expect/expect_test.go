package expect

import (
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	rules := Rules{
		{Keys: []string{"/as"}, Value: "asn", Empty: true},
		{Keys: []string{"/host/*/ip4"}, Value: "ipv4"},
		{Keys: []string{"/host/*/ip6"}, Value: "ipv6"},
		{Keys: []string{"/host/*/net"}, Value: "prefix"},
		{Keys: []string{"/mesh"}, Value: "json", Fields: map[string]string{"enabled": "bool"}},
		{Keys: []string{"/peer/*"}, Value: "json", Fields: map[string]string{
			"ip": "ip", "as_num": "asn", "password": "password?", "port": "port?", "mode": "always|never?",
		}},
	}
	for _, c := range []struct {
		name, key, value string
		want             string // part of the error; empty: the value is good
	}{
		{"a plain AS number", "/as", "64512", ""},
		{"a dotted AS number", "/as", "1.10", ""},
		{"an empty value where that is allowed", "/as", "", ""},
		{"an AS number that is a word", "/as", "abc", "is no asn"},
		{"AS number 0", "/as", "0", "reserved"},
		{"AS_TRANS", "/as", "23456", "reserved"},
		{"dotted AS number 0", "/as", "0.0", "reserved"},
		{"an AS number beyond 32 bits", "/as", "4294967296", "is no asn"},
		{"an IPv4 address", "/host/a/ip4", "10.0.0.1", ""},
		{"an empty value where that is not allowed", "/host/a/ip4", "", "is empty"},
		{"an IPv6 address in place of an IPv4 one", "/host/a/ip4", "fd00::1", "another family"},
		{"the unspecified address", "/host/a/ip4", "0.0.0.0", "not the address of a host"},
		{"an address with spaces", "/host/a/ip4", " 10.0.0.1", "is no ipv4"},
		{"an IPv6 address", "/host/a/ip6", "fd00::1", ""},
		{"an IPv4 address in place of an IPv6 one", "/host/a/ip6", "10.0.0.1", "another family"},
		{"an IPv6 address with a zone", "/host/a/ip6", "fe80::1%eth0", "another family"},
		{"a prefix", "/host/a/net", "10.0.0.0/8", ""},
		{"a prefix with bits beyond its length", "/host/a/net", "10.0.0.1/8", "beyond its length"},
		{"a key that no rule names", "/other", "\x00", ""},
		{"a star does not cross a slash", "/host/a/b/ip4", "nonsense", ""},
		{"an object", "/mesh", `{"enabled":false}`, ""},
		{"an object with more members", "/mesh", `{"enabled":true,"new":[1]}`, ""},
		{"no JSON", "/mesh", `{"enabled":`, "is no JSON object"},
		{"a list", "/mesh", `[]`, "is no JSON object"},
		{"null", "/mesh", `null`, "field enabled: is missing"},
		{"text after the object", "/mesh", `{"enabled":true} x`, "text after its end"},
		{"a switch in quotes", "/mesh", `{"enabled":"false"}`, "field enabled: is no bool"},
		{"a missing member", "/mesh", `{}`, "field enabled: is missing"},
		{"a peer with a number", "/peer/x", `{"ip":"10.0.0.1","as_num":64512}`, ""},
		{"a peer with text", "/peer/x", `{"ip":"fd00::1","as_num":"64512","password":"s3cret","port":179,"mode":"never"}`, ""},
		{"a peer with empty options", "/peer/x", `{"ip":"fd00::1","as_num":"64512","password":"","mode":""}`, ""},
		{"a peer without an address", "/peer/x", `{"as_num":"64512"}`, "field ip: is missing"},
		{"a peer whose address is an object", "/peer/x", `{"ip":{},"as_num":"64512"}`, "list or an object"},
		{"a peer whose address is a switch", "/peer/x", `{"ip":true,"as_num":"64512"}`, "is no ip"},
		{"a large AS number stays exact", "/peer/x", `{"ip":"10.0.0.1","as_num":4200000000}`, ""},
		{"a dotted AS number in quotes", "/peer/x", `{"ip":"10.0.0.1","as_num":"64512.5"}`, ""},
		{"a dotted AS number that JSON reads as another", "/peer/x", `{"ip":"10.0.0.1","as_num":1.10}`, "stands in quotes"},
		{"an AS number with an exponent", "/peer/x", `{"ip":"10.0.0.1","as_num":1e3}`, "stands in quotes"},
		{"a password with a control character", "/peer/x", `{"ip":"10.0.0.1","as_num":1,"password":"a\u0007"}`, "control character"},
		{"a password that is too long", "/peer/x", `{"ip":"10.0.0.1","as_num":1,"password":"` + strings.Repeat("x", 81) + `"}`, "81 bytes"},
		{"a port beyond 16 bits", "/peer/x", `{"ip":"10.0.0.1","as_num":1,"port":65536}`, "field port"},
		{"a word that is not possible", "/peer/x", `{"ip":"10.0.0.1","as_num":1,"mode":"often"}`, "none of always, never"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := rules.Check(c.key, c.value)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("Check(%s, %q) = %v, want nil", c.key, c.value, err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("Check(%s, %q) = %v, want %q in it", c.key, c.value, err, c.want)
			}
		})
	}
}

func TestPasswordsStayOutOfErrors(t *testing.T) {
	rules := Rules{{Keys: []string{"/p"}, Value: "json", Fields: map[string]string{"password": "password?"}}}
	for _, password := range []string{`secret\u0001`, strings.Repeat("secret", 20)} {
		err := rules.Check("/p", `{"password":"`+password+`"}`)
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("Check = %v, want an error without the password", err)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		name string
		rule Rule
		want string
	}{
		{"a good rule", Rule{Keys: []string{"/a/*"}, Value: "ipv4"}, ""},
		{"good fields", Rule{Keys: []string{"/a"}, Value: "json", Fields: map[string]string{"x": "bool?", "y": "a|b"}}, ""},
		{"no keys", Rule{Value: "ipv4"}, "no keys"},
		{"a bad pattern", Rule{Keys: []string{"/a["}, Value: "ipv4"}, "pattern /a["},
		{"an unknown form", Rule{Keys: []string{"/a"}, Value: "ipv5"}, `unknown form "ipv5"`},
		{"no form", Rule{Keys: []string{"/a"}}, "unknown form"},
		{"an unknown form of a field", Rule{Keys: []string{"/a"}, Value: "json", Fields: map[string]string{"x": "ipv5?"}}, "field x: expect: unknown form"},
		{"fields of what is no object", Rule{Keys: []string{"/a"}, Value: "ip", Fields: map[string]string{"x": "ip"}}, "only a json value"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.rule.Validate()
			if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("Validate() = %v, want %q", err, c.want)
			}
		})
	}
}

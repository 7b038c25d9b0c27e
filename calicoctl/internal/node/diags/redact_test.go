package diags

import (
	"strings"
	"testing"
)

func TestRedact(t *testing.T) {
	for name, text := range map[string]string{
		"an environment variable":     "PATH=/bin\nETCD_PASSWORD=XSECRETX and more XSECRETX\nHOME=/root",
		"a YAML field":                "  etcdPassword: XSECRETX",
		"a quoted YAML field":         "  etcdPassword: 'XSECRETX and XSECRETX'",
		"a flag":                      "etcd --password XSECRETX --name a",
		"a flag with an equals sign":  "etcd --root-password=XSECRETX",
		"a URL":                       "endpoint http://root:XSECRETX@10.0.0.1:2379/x",
		"a URL without a user":        "endpoint http://:XSECRETX@10.0.0.1:2379/x",
		"a URL with a token":          "endpoint https://XSECRETX@10.0.0.1:2379/x",
		"a URL with @ in a password":  "endpoint http://root:X@SECRETX@10.0.0.1:2379/x",
		"a URL with / in a password":  "endpoint http://root:X/SECRETX@10.0.0.1:2379/x",
		"a variable of PostgreSQL":    "PGPASS=XSECRETX",
		"a pre-shared key":            "A=1\nPSK=XSECRETX",
		"a named pre-shared key":      "WIFI_PSK: XSECRETX",
		"a sentence":                  "the password is XSECRETX",
		"a header in a command":       `curl -H "Authorization: Bearer XSECRETX" http://10.0.0.1`,
		"a header without a scheme":   "authorization: XSECRETX",
		"a passphrase":                "ETCD_PASSPHRASE=XSECRETX",
		"a JSON field":                `{"name":"a","password":"XSECRETX\" XSECRETX","n":1}`,
		"a JSON list of variables":    `[{"Env":["A=b","MY_TOKEN=XSECRETX and XSECRETX"]}]`,
		"JSON within JSON":            `{"values":{"/calico/bgp/v1/global/peer_v4/192.0.2.1":"{\"ip\":\"192.0.2.1\",\"password\":\"XSECRETX\"}"}}`,
		"JSON within text":            `level=info value="{\"password\":\"XSECRETX\",\"ip\":\"192.0.2.1\"}" end`,
		"JSON in a log":               "12:00 got {\"password\":\"XSECRETX\"}\n12:01 more",
		"a private key":               "x\n-----BEGIN RSA PRIVATE KEY-----\nXSECRETX\nXSECRETX\n-----END RSA PRIVATE KEY-----\ny",
		"a header":                    "Authorization: Bearer XSECRETX",
		"an object":                   `{"secrets":{"a":"XSECRETX"}}`,
		"what is known by its text":   "the word is KNOWNSECRET here",
		"what is known in a document": `{"a":"KNOWNSECRET"}`,
	} {
		t.Run(name, func(t *testing.T) {
			r := NewRedactor()
			r.Know("KNOWNSECRET", "abc")
			got := string(r.Redact([]byte(text)))
			if strings.Contains(got, "SECRET") || !strings.Contains(got, hidden) {
				t.Errorf("got %s", got)
			}
			if value := string(r.RedactValue("/calico/x", []byte(text))); strings.Contains(value, "SECRET") || !strings.Contains(value, hidden) {
				t.Errorf("as a value: %s", value)
			}
		})
	}
	r := NewRedactor()
	if got := string(r.RedactValue("/calico/x/password", []byte("hunter2"))); got != hidden {
		t.Errorf("a key that names a secret: %s", got)
	}
	const harmless = `{"b": 1, "a": "role == 'x'"}`
	if got := string(r.RedactValue("/calico/x", []byte(harmless))); got != harmless {
		t.Errorf("got %s, want it as it is", got)
	}
}

func TestRedactKeepsTheRest(t *testing.T) {
	r := NewRedactor()
	r.KnowValues(`{"ip":"192.0.2.1","password":"hunter2"}`, "not JSON")
	for text, want := range map[string]string{
		"A=1\nETCD_PASSWORD=x\nB=2":                   "A=1\nETCD_PASSWORD=[redacted]\nB=2",
		`[{"Env":["A=b","TOKEN=x"],"n":12345678901}]`: "[\n  {\n    \"Env\": [\n      \"A=b\",\n      \"TOKEN=[redacted]\"\n    ],\n    \"n\": 12345678901\n  }\n]\n",
		"no secret here, not even hunter3":            "no secret here, not even hunter3",
		"see http://10.0.0.1:2379/x and a@b.example":  "see http://10.0.0.1:2379/x and a@b.example",
		"md5 hunter2 ok":                              "md5 [redacted] ok",
		`{"password":""}`:                             "{\n  \"password\": \"\"\n}\n",
	} {
		if got := string(r.Redact([]byte(text))); got != want {
			t.Errorf("Redact(%q) = %q, want %q", text, got, want)
		}
	}
}

package transfer

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestAnAnswerOfTheV2API reads trees as etcd writes them, and as other programs do.
func TestAnAnswerOfTheV2API(t *testing.T) {
	for _, tc := range []struct{ name, text, want, err string }{
		{
			"a tree",
			`{"action":"get","node":{"key":"/calico","dir":true,"nodes":[
				{"key":"/calico/a","value":"1","modifiedIndex":5},
				{"key":"/calico/b","dir":true,"nodes":[{"key":"/calico/b/c","value":"<\"ü\">"},{"key":"/calico/b/d","value":""}]},
				{"key":"/calico/empty","dir":true}]}}`,
			`[/calico/a=1 /calico/b/c=<"ü"> /calico/b/d=]`, "",
		},
		{
			"what expires",
			`{"node":{"key":"/calico","dir":true,"nodes":[
				{"key":"/calico/a","value":"1","expiration":"2026-01-02T03:04:05Z","ttl":5},
				{"key":"/calico/b","dir":true,"expiration":"2026-01-02T03:04:05Z","nodes":[{"key":"/calico/b/c","value":"2"}]},
				{"key":"/calico/d","value":"3"}]}}`,
			"[/calico/d=3]", "",
		},
		{"other orders", `{"node":{"nodes":[{"value":"1","key":"/calico/a"}],"dir":true,"key":"/calico"},"action":"get"}`, "[/calico/a=1]", ""},
		{"no nodes", `{"node":{"key":"/calico","dir":true,"nodes":null}}`, "", "f holds nothing of Calico"},
		{"what expires, said too late", `{"node":{"key":"/calico","dir":true,"nodes":[{"key":"/calico/a","value":"1"}],"expiration":"2026-01-02T03:04:05Z"}}`, "", "stands after its nodes"},
		{"no tree", `{"errorCode":100,"message":"Key not found","cause":"/calico","index":3}`, "", "f holds no /calico"},
		{"another error", `{"errorCode":110,"message":"Unauthorized","cause":"x"}`, "", "etcd says: Unauthorized (x)"},
		{"something else", `{"a":1}`, "", "not an answer of etcd's v2 API"},
		{"a list", `[]`, "", "not an answer of etcd's v2 API"},
		{"half of one", `{"node":{"key":"/calico","dir":true,"nodes":[{"key":"/calico/a","value":"1"}`, "", "unexpected EOF"},
		{"two", `{"node":{"key":"/calico/a","value":"1"}} {}`, "", "something follows after its end"},
		{"nothing", ``, "", "unexpected EOF"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			source, err := V2File("f", strings.NewReader(tc.text))
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("error %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			if err := source.each(func(path string, value []byte) error {
				got = append(got, path+"="+string(value))
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if slices.Sort(got); fmt.Sprint(got) != tc.want {
				t.Errorf("%v, want %s", got, tc.want)
			}
		})
	}
}

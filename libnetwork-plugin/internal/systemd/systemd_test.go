package systemd

import (
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// env is an environment.
func env(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

func TestWhatIsHandedOver(t *testing.T) {
	tests := []struct {
		name string
		vars map[string]string
		want []string
		err  string
	}{
		{"nothing", nil, nil, ""},
		{"sockets of another process", map[string]string{"LISTEN_PID": "8", "LISTEN_FDS": "2"}, nil, ""},
		{"sockets without names", map[string]string{"LISTEN_PID": "7", "LISTEN_FDS": "2"}, []string{"", ""}, ""},
		{
			"sockets with names",
			map[string]string{"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "calico:calico-ipam"},
			[]string{"calico", "calico-ipam"},
			"",
		},
		{"none of ours", map[string]string{"LISTEN_PID": "7", "LISTEN_FDS": "0"}, []string{}, ""},
		{"no number", map[string]string{"LISTEN_PID": "7", "LISTEN_FDS": "two"}, nil, `LISTEN_FDS is "two"`},
		{"less than nothing", map[string]string{"LISTEN_PID": "7", "LISTEN_FDS": "-1"}, nil, "LISTEN_FDS"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := handed(env(tt.vars), 7)
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("error %v", err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNotify(t *testing.T) {
	if err := Notify(env(nil), Ready); err != nil {
		t.Errorf("without a manager: %v", err)
	}
	path := filepath.Join(t.TempDir(), "notify")
	if err := Notify(env(map[string]string{"NOTIFY_SOCKET": path}), Ready); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("with a manager that is gone: %v", err)
	}
	for _, path := range []string{path, "@calico-notify-test"} {
		manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer manager.Close() //nolint:errcheck // the test is over
		if err := Notify(env(map[string]string{"NOTIFY_SOCKET": path}), Ready); err != nil {
			t.Fatal(err)
		}
		text := make([]byte, 64)
		n, err := manager.Read(text)
		if err != nil || string(text[:n]) != "READY=1" {
			t.Errorf("%s heard %q, %v", path, text[:n], err)
		}
	}
}

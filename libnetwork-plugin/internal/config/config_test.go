package config

import (
	"errors"
	"flag"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// defaults is what no flag and no variable give.
func defaults() Config {
	return Config{
		RunDir: "/var/run/calico", PluginDir: "/run/docker/plugins", StateDir: "/var/lib/calico",
		DockerHost: "unix:///var/run/docker.sock", InterfacePrefix: "cali", CreateProfiles: true,
		LabelTimeout: 5 * time.Second, FelixTimeout: 10 * time.Second, StartContainers: true, SyncNetworks: true, AnswerNames: true,
		LogLevel: slog.LevelInfo, LogFormat: "text",
	}
}

func TestParse(t *testing.T) {
	tests := []struct {
		name   string
		args   []string
		env    map[string]string
		change func(*Config)
	}{
		{"nothing given", nil, nil, func(*Config) {}},
		{
			"a flag goes before its variable",
			[]string{"--run-dir", "/a", "--node=n1"},
			map[string]string{"CALICO_RUN_DIR": "/b", "NODENAME": "n2"},
			func(c *Config) { c.RunDir, c.Node = "/a", "n1" },
		},
		{
			"HOSTNAME is no node name", nil,
			map[string]string{"HOSTNAME": "x", "NODENAME": "n2"},
			func(c *Config) { c.Node = "n2" },
		},
		{
			"the variables of the original", nil,
			map[string]string{
				"CALICO_LIBNETWORK_IFPREFIX": "eth", "CALICO_LIBNETWORK_VETH_MTU": "1400",
				"CALICO_LIBNETWORK_CREATE_PROFILES": "false", "CALICO_LIBNETWORK_LABEL_ENDPOINTS": "true",
				"CALICO_LIBNETWORK_LABEL_POLL_TIMEOUT": "7s", "CALICO_DEBUG": "1", "CALICO_LIBNETWORK_SCOPE": "global",
			},
			func(c *Config) {
				c.InterfacePrefix, c.MTU, c.CreateProfiles, c.LabelEndpoints = "eth", 1400, false, true
				c.LabelTimeout, c.LogLevel, c.Scope = 7*time.Second, slog.LevelDebug, ScopeGlobal
			},
		},
		{
			"labels take the place of profiles", nil,
			map[string]string{"CALICO_LIBNETWORK_LABEL_ENDPOINTS": "true"},
			func(c *Config) { c.LabelEndpoints, c.CreateProfiles = true, false },
		},
		{
			"both labels and profiles when asked for", nil,
			map[string]string{"CALICO_LIBNETWORK_LABEL_ENDPOINTS": "true", "CALICO_LIBNETWORK_CREATE_PROFILES": "true"},
			func(c *Config) { c.LabelEndpoints = true },
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := defaults()
			tt.change(&want)
			got, err := Parse(tt.args, func(k string) string { return tt.env[k] }, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseReportsEveryFault(t *testing.T) {
	env := map[string]string{
		"CALICO_LIBNETWORK_IFPREFIX": "longprefix123",
		"CALICO_LIBNETWORK_VETH_MTU": "70000", "CALICO_LIBNETWORK_LABEL_POLL_TIMEOUT": "5",
		"CALICO_LIBNETWORK_FELIX_TIMEOUT": "1m", "CALICO_LIBNETWORK_SCOPE": "swarm",
		"CALICO_LIBNETWORK_LABEL_ENDPOINTS": "maybe", "CALICO_LIBNETWORK_LOG_LEVEL": "loud",
	}
	_, err := Parse(nil, func(k string) string { return env[k] }, io.Discard)
	if err == nil {
		t.Fatal("no error")
	}
	for name, value := range env {
		if !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), value) {
			t.Errorf("%s=%s is not named in: %v", name, value, err)
		}
	}
}

func TestParseRefusesWhatItDoesNotKnow(t *testing.T) {
	getenv := func(string) string { return "" }
	for _, args := range [][]string{{"--nope"}, {"extra"}} {
		if _, err := Parse(args, getenv, io.Discard); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
	if _, err := Parse([]string{"--help"}, getenv, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("--help: %v", err)
	}
}

func TestReadmeListsEverySetting(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range Settings() {
		if !strings.Contains(string(text), "`--"+s.Flag+"`") || !strings.Contains(string(text), "`"+s.Env+"`") {
			t.Errorf("README.md does not mention --%s or %s", s.Flag, s.Env)
		}
	}
}

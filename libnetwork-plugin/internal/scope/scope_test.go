package scope

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"calico.internal/libnetwork-plugin/internal/dockerapi"
	"calico.internal/libnetwork-plugin/internal/enginetest"
)

func TestOf(t *testing.T) {
	const store = "etcd://10.0.0.1:2379"
	tests := []struct {
		name, version, store, want string
	}{
		{"20.10 with a cluster store", "20.10.24+dfsg1", store, "global"},
		{"20.10 without one", "20.10.24+dfsg1", "", "local"},
		{"an older engine with one", "19.03.15", store, "global"},
		{"an engine from when versions were numbers", "1.13.1", store, "global"},
		{"23 cannot use one any more", "23.0.6", store, "local"},
		{"24", "24.0.9", "", "local"},
		{"29", "29.1.3", "", "local"},
		{"a version nobody can read", "dev", store, "local"},
		{"no version", "", store, "local"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Of(dockerapi.Info{ServerVersion: tt.version, ClusterStore: tt.store}); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// keeper returns a keeper for an engine that keeps its answers in dirs.
func keeper(t *testing.T, e *enginetest.Engine, fixed string, dirs ...string) *Keeper {
	t.Helper()
	c, err := dockerapi.New(e.Host())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return New(c, fixed, slog.New(slog.DiscardHandler), dirs...)
}

func TestTheLastAnswerOutlivesTheProcess(t *testing.T) {
	e := enginetest.Start(t, enginetest.Docker20)
	e.SetClusterStore("etcd://10.0.0.1:2379")
	dir := t.TempDir()
	if got := keeper(t, e, "", dir).Refresh(t.Context()); got != "global" {
		t.Fatalf("scope %s", got)
	}
	// An engine that starts asks for the scope before it serves its own API.
	e.SetSilent(true)
	again := keeper(t, e, "", dir)
	if got := again.Refresh(t.Context()); got != "global" {
		t.Errorf("scope %s while the engine starts", got)
	}
	e.SetSilent(false)
	e.SetClusterStore("")
	if got := again.Refresh(t.Context()); got != "local" {
		t.Errorf("scope %s after the cluster store was taken away", got)
	}
	if got := again.Current(); got != "local" {
		t.Errorf("current scope %s", got)
	}
}

func TestWithoutAnyAnswerTheScopeIsLocal(t *testing.T) {
	e := enginetest.Start(t, enginetest.Docker20)
	e.SetClusterStore("etcd://10.0.0.1:2379")
	e.SetSilent(true)
	if got := keeper(t, e, "", t.TempDir()).Refresh(t.Context()); got != "local" {
		t.Errorf("scope %s", got)
	}
}

func TestAFixedScopeAsksNobody(t *testing.T) {
	e := enginetest.Start(t, enginetest.Docker29)
	k := keeper(t, e, "global", t.TempDir())
	if got := k.Refresh(t.Context()) + k.Current(); got != "globalglobal" {
		t.Errorf("scope %s", got)
	}
	if calls := e.Calls(); len(calls) != 0 {
		t.Errorf("asked %v", calls)
	}
}

func TestTheAnswerIsKeptWhereItCanBe(t *testing.T) {
	e := enginetest.Start(t, enginetest.Docker20)
	e.SetClusterStore("etcd://10.0.0.1:2379")
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	second := t.TempDir()
	keeper(t, e, "", blocked, second).Refresh(t.Context())
	e.SetSilent(true)
	if got := keeper(t, e, "", blocked, second).Current(); got != "global" {
		t.Errorf("scope %s", got)
	}
	left, err := os.ReadDir(second)
	if err != nil || len(left) != 1 {
		t.Errorf("files %v, %v", left, err)
	}
}

func TestAFileWithNonsenseIsIgnored(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, file), []byte("swarm\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := keeper(t, enginetest.Start(t, enginetest.Docker29), "", dir).Current(); got != "local" {
		t.Errorf("scope %s", got)
	}
}

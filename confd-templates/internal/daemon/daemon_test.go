package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/health/grpc_health_v1"

	"calico.internal/confd-templates/internal/options"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/grpcsock"
	"calico.internal/libcalico/hostrecord"
)

func TestMain(m *testing.M) { os.Exit(etcdtest.Main(m)) }

// rig is confd on an etcd, with one template in a folder of its own. Its check and reload commands write down that
// they ran, and do what the files "check" and "reload" in that folder say.
type rig struct {
	t    *testing.T
	etcd *etcdtest.Server
	dir  string
	o    options.Options
}

const template = `{{range gets "/list/*"}}{{base .Key}}={{.Value}}
{{end}}mesh={{(json (getv "/mesh" "{}")).enabled}}
`

func newRig(t *testing.T, server *etcdtest.Server) *rig {
	t.Helper()
	server.SetUp(t)
	r := &rig{t: t, etcd: server, dir: t.TempDir()}
	r.write("conf.d/out.toml", fmt.Sprintf(`[template]
src = "out.tmpl"
dest = %q
prefix = "/t"
keys = ["/list", "/mesh"]
check_cmd = "echo check >>%[2]s/ran; . %[2]s/check {{.src}}"
reload_cmd = "echo reload >>%[2]s/ran; . %[2]s/reload"
[[expect]]
keys = ["/mesh"]
value = "json"
fields = { enabled = "bool" }
`, r.dest(), r.dir))
	r.write("templates/out.tmpl", template)
	r.write("check", "")
	r.write("reload", "")
	r.write("ran", "")
	r.o = options.Options{
		ConfDir: r.dir, Interval: time.Minute, Watch: true, RunDir: filepath.Join(r.dir, "run"), StateDir: filepath.Join(r.dir, "state"), NodeName: "node00",
		CommandTimeout: time.Second, Etcd: etcdstore.Config{Endpoints: server.Endpoints()},
	}
	return r
}

func (r *rig) dest() string { return filepath.Join(r.dir, "out", "out.conf") }

func (r *rig) write(name, text string) {
	r.t.Helper()
	name = filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) put(pairs ...string) {
	r.t.Helper()
	client := r.etcd.Client(r.t)
	for i := 0; i < len(pairs); i += 2 {
		if _, err := client.Put(r.t.Context(), pairs[i], pairs[i+1]); err != nil {
			r.t.Fatal(err)
		}
	}
}

// start runs confd until the test ends, or until stop is called.
func (r *rig) start() (stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	logger := slog.New(slog.NewTextHandler(r.t.Output(), nil))
	go func() { done <- Run(ctx, r.o, logger) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			r.t.Error("Run:", err)
		}
	}
	r.t.Cleanup(stop)
	return stop
}

// eventually polls until f returns "", which otherwise says what is amiss.
func (r *rig) eventually(when string, f func() string) {
	r.t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	amiss := f()
	for amiss != "" {
		select {
		case <-tick.C:
			amiss = f()
		case <-deadline:
			r.t.Fatalf("%s: %s", when, amiss)
		}
	}
}

func (r *rig) wantFile(when, want string) {
	r.t.Helper()
	r.eventually(when, func() string {
		have, err := os.ReadFile(r.dest())
		if err == nil && string(have) == want {
			return ""
		}
		return fmt.Sprintf("the file holds %q (%v), want %q", have, err, want)
	})
}

// wantRun waits until a command has run at least so often.
func (r *rig) wantRun(when, command string, times int) {
	r.t.Helper()
	r.eventually(when, func() string {
		if n := r.ran(command); n < times {
			return fmt.Sprintf("%s ran %d times, want %d", command, n, times)
		}
		return ""
	})
}

func (r *rig) ran(command string) int {
	text, err := os.ReadFile(filepath.Join(r.dir, "ran"))
	if err != nil {
		r.t.Fatal(err)
	}
	return strings.Count(string(text), command+"\n")
}

func (r *rig) wantHealth(when string, want grpc_health_v1.HealthCheckResponse_ServingStatus) {
	r.t.Helper()
	conn, err := grpcsock.Dial(filepath.Join(r.o.RunDir, "confd.sock"))
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // nothing is buffered
	r.eventually(when, func() string {
		answer, err := grpc_health_v1.NewHealthClient(conn).Check(r.t.Context(), &grpc_health_v1.HealthCheckRequest{})
		if err != nil {
			return err.Error()
		}
		if answer.Status != want {
			return fmt.Sprintf("health is %s, want %s", answer.Status, want)
		}
		return ""
	})
}

func TestFileFollowsEtcd(t *testing.T) {
	r := newRig(t, etcdtest.Shared(t))
	r.put("/t/list/a", "1", "/t/mesh", `{"enabled":true}`, "/other", "x")
	stop := r.start()
	r.wantFile("at the start", "a=1\nmesh=true\n")
	r.put("/t/list/b", "2")
	r.wantFile("after a put", "a=1\nb=2\nmesh=true\n")
	if _, err := r.etcd.Client(t).Delete(t.Context(), "/t/list/a"); err != nil {
		t.Fatal(err)
	}
	r.wantFile("after a delete", "b=2\nmesh=true\n")
	r.wantRun("in the end", "reload", 3)
	r.wantHealth("in the end", grpc_health_v1.HealthCheckResponse_SERVING)
	r.eventually("liveness", func() string {
		answer, err := r.etcd.Client(t).Get(t.Context(), "/calico/status/v1/host/node00/confd")
		if err != nil {
			return err.Error()
		}
		if len(answer.Kvs) == 0 || !strings.Contains(string(answer.Kvs[0].Value), `"ready":true`) {
			return fmt.Sprint("the liveness key is ", answer.Kvs)
		}
		return ""
	})
	stop()
	if _, err := os.Stat(filepath.Join(r.o.RunDir, "confd.sock")); !os.IsNotExist(err) {
		t.Errorf("the socket outlives the program: %v", err)
	}
}

func TestFailedCheckHeals(t *testing.T) {
	r := newRig(t, etcdtest.Shared(t))
	r.put("/t/list/a", "1")
	// "." has no arguments in every shell; the staged file is found by its name.
	r.write("check", "! grep -q bad "+filepath.Dir(r.dest())+"/.out.conf.staged")
	r.start()
	r.wantFile("at the start", "a=1\nmesh=<no value>\n")
	r.put("/t/list/a", "bad")
	r.wantRun("the bad value is tried again", "check", 3)
	r.wantFile("while the check fails", "a=1\nmesh=<no value>\n")
	r.wantHealth("while the check fails", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	r.put("/t/list/a", "2")
	r.wantFile("after it is mended", "a=2\nmesh=<no value>\n")
	r.wantHealth("after it is mended", grpc_health_v1.HealthCheckResponse_SERVING)
}

func TestFailedReloadIsTriedAgain(t *testing.T) {
	r := newRig(t, etcdtest.Shared(t))
	r.put("/t/list/a", "1")
	r.write("reload", "exit 1")
	r.start()
	r.wantFile("at the start", "a=1\nmesh=<no value>\n")
	r.wantRun("the reload is tried again", "reload", 3)
	r.wantHealth("while the reload fails", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	if n := r.ran("check"); n != 1 {
		t.Errorf("%d checks, want one: the file has not changed", n)
	}
	r.write("reload", "")
	r.wantHealth("when the reload works", grpc_health_v1.HealthCheckResponse_SERVING)
	n := r.ran("reload")
	r.put("/t/list/a", "2")
	r.wantRun("after a change", "reload", n+1)
}

func TestHungCommandIsEnded(t *testing.T) {
	r := newRig(t, etcdtest.Shared(t))
	r.put("/t/list/a", "1")
	r.write("reload", "sleep 600")
	r.start()
	r.wantRun("the hung reload is ended and tried again", "reload", 2)
	r.write("reload", "")
	r.wantHealth("when it no longer hangs", grpc_health_v1.HealthCheckResponse_SERVING)
}

func TestBadKeyStopsOnlyItself(t *testing.T) {
	r := newRig(t, etcdtest.Shared(t))
	r.put("/t/mesh", `{"enabled":false}`)
	r.start()
	r.wantFile("at the start", "mesh=false\n")
	r.put("/t/mesh", `{"enabled":`, "/t/list/a", "1")
	r.wantFile("the bad value", "a=1\nmesh=false\n")
	r.put("/t/mesh", `{"enabled":true}`)
	r.wantFile("the mended value", "a=1\nmesh=true\n")
}

func TestStartBeforeEtcdAndItsRestart(t *testing.T) {
	server := etcdtest.Start(t)
	r := newRig(t, server)
	r.put("/t/list/a", "1")
	server.Stop()
	r.start()
	r.wantHealth("without etcd", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	r.wantFile("when etcd comes up", "a=1\nmesh=<no value>\n")
	server.Stop()
	if err := os.Remove(r.dest()); err != nil {
		t.Fatal(err)
	}
	r.wantFile("healed while etcd is away", "a=1\nmesh=<no value>\n")
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	r.put("/t/list/b", "2")
	r.wantFile("after the restart", "a=1\nb=2\nmesh=<no value>\n")
	t.Logf("rendered %s after etcd came back", time.Since(back))
}

// A confd that starts without etcd, or with one that is not followed, leaves the file that is there, calls nobody, and
// goes on when etcd is back.
func TestAStartWithoutEtcdLeavesTheFile(t *testing.T) {
	for name, take := range map[string]func(*rig) (back func() error){
		"away": func(r *rig) func() error { r.etcd.Stop(); return r.etcd.Restart },
		"emptied": func(r *rig) func() error {
			r.etcd.Wipe(r.t)
			return func() error {
				r.put("/t/list/a", "1")
				r.etcd.SetUp(r.t)
				return nil
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := etcdtest.Start(t)
			r := newRig(t, server)
			r.put("/t/list/a", "1")
			stop := r.start()
			const before = "a=1\nmesh=<no value>\n"
			r.wantFile("at the first start", before)
			r.wantRun("at the first start", "reload", 1)
			stop()
			file, err := os.Stat(r.dest())
			if err != nil {
				t.Fatal(err)
			}
			checks, reloads := r.ran("check"), r.ran("reload")
			back := take(r)
			for range 2 {
				stop = r.start()
				r.wantHealth("without etcd", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
				<-time.After(3 * time.Second) // longer than it waits for etcd
				stop()
				if now, err := os.Stat(r.dest()); err != nil || !os.SameFile(file, now) || !now.ModTime().Equal(file.ModTime()) {
					t.Errorf("the file was touched: %v", err)
				}
			}
			r.wantFile("without etcd", before)
			if c, l := r.ran("check")-checks, r.ran("reload")-reloads; c+l > 0 {
				t.Errorf("check ran %d times, reload %d times", c, l)
			}
			r.start()
			r.wantHealth("without etcd", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
			if err := back(); err != nil {
				t.Fatal(err)
			}
			r.put("/t/list/b", "2")
			r.wantFile("with etcd back", "a=1\nb=2\nmesh=<no value>\n")
			r.wantHealth("with etcd back", grpc_health_v1.HealthCheckResponse_SERVING)
		})
	}
}

// What etcd has lost stays, and is kept up, until the data is back or somebody says that
// there shall be none.
func TestAnEmptiedEtcdTakesNothingAway(t *testing.T) {
	for name, empty := range map[string]func(*testing.T, *etcdtest.Server){
		"its keys are deleted": func(t *testing.T, s *etcdtest.Server) { s.Wipe(t) },
		"etcd starts on a new folder": func(t *testing.T, s *etcdtest.Server) {
			if err := s.Reset(); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := etcdtest.Start(t)
			r := newRig(t, server)
			r.put("/t/list/a", "1", "/t/list/b", "2")
			r.start()
			const before = "a=1\nb=2\nmesh=<no value>\n"
			r.wantFile("at the start", before)
			r.wantHealth("at the start", grpc_health_v1.HealthCheckResponse_SERVING)
			empty(t, server)
			r.put("/t/list/c", "3")
			r.wantHealth("while the data is gone", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
			if err := os.Remove(r.dest()); err != nil {
				t.Fatal(err)
			}
			r.wantFile("healed while the data is gone", before)
			r.wantHealth("still", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
			if keys, err := server.Client(t).Get(t.Context(), "/calico", clientv3.WithPrefix()); err != nil || keys.Count > 0 {
				t.Errorf("confd wrote %v to a store that is not its cluster's, %v", keys, err)
			}
			r.put("/t/list/a", "1")
			server.SetUp(t)
			r.wantFile("with the data back", "a=1\nc=3\nmesh=<no value>\n")
			r.wantHealth("with the data back", grpc_health_v1.HealthCheckResponse_SERVING)
		})
	}
}

// A backup from before a node was there takes none of its facts away.
func TestARestoredBackupTakesNoFactAway(t *testing.T) {
	server := etcdtest.Start(t)
	r := newRig(t, server)
	conf, err := os.ReadFile(filepath.Join(r.dir, "conf.d/out.toml"))
	if err != nil {
		t.Fatal(err)
	}
	r.write("conf.d/out.toml", string(conf)+"[[expect]]\nkeys = [\"/list/ip*\"]\nvalue = \"ip\"\nfact = true\n")
	r.put("/t/list/ip1", "10.0.0.1")
	if err := server.Snapshot(); err != nil {
		t.Fatal(err)
	}
	r.put("/t/list/ip2", "10.0.0.2", "/t/list/wanted", "x")
	r.start()
	r.wantFile("at the start", "ip1=10.0.0.1\nip2=10.0.0.2\nwanted=x\nmesh=<no value>\n")
	if err := errors.Join(server.Rewind(), server.Restart()); err != nil {
		t.Fatal(err)
	}
	r.wantFile("with the backup", "ip1=10.0.0.1\nip2=10.0.0.2\nmesh=<no value>\n")
	r.put("/t/list/ip2", "10.0.0.3")
	r.wantFile("written back", "ip1=10.0.0.1\nip2=10.0.0.3\nmesh=<no value>\n")
}

func TestAnotherClustersEtcdMakesNoFile(t *testing.T) {
	r := newRig(t, etcdtest.Shared(t))
	r.put("/t/list/a", "1")
	if err := hostrecord.Write(r.o.StateDir, hostrecord.Record{ClusterGUID: "mine"}); err != nil {
		t.Fatal(err)
	}
	r.o.OneTime = true
	err := Run(t.Context(), r.o, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "this host's is mine") {
		t.Errorf("Run = %v, want why etcd is not followed", err)
	}
	r.o.OneTime = false
	r.start()
	r.wantHealth("at the start", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	r.put("/calico/v1/accepted_guid", etcdtest.GUID)
	r.wantFile("once it is accepted", "a=1\nmesh=<no value>\n")
}

func TestCompaction(t *testing.T) {
	server := etcdtest.Start(t)
	r := newRig(t, server)
	r.put("/t/list/a", "1", "/t/list/b", "2")
	r.start()
	r.wantFile("at the start", "a=1\nb=2\nmesh=<no value>\n")
	client := server.Client(t)
	if _, err := client.Delete(t.Context(), "/t/list/a"); err != nil {
		t.Fatal(err)
	}
	answer, err := client.Put(t.Context(), "/t/list/c", "3")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Compact(t.Context(), answer.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	r.wantFile("after the compaction", "b=2\nc=3\nmesh=<no value>\n")
}

func TestFileIsHealed(t *testing.T) {
	r := newRig(t, etcdtest.Shared(t))
	r.put("/t/list/a", "1")
	r.start()
	const want = "a=1\nmesh=<no value>\n"
	r.wantFile("at the start", want)
	r.wantHealth("at the start", grpc_health_v1.HealthCheckResponse_SERVING)
	for _, damage := range []struct {
		name string
		do   func() error
	}{
		{"removed", func() error { return os.Remove(r.dest()) }},
		{"edited", func() error { return os.WriteFile(r.dest(), []byte("by hand"), 0o644) }},
	} {
		n := r.ran("reload")
		if err := damage.do(); err != nil {
			t.Fatal(err)
		}
		r.wantFile(damage.name, want)
		r.wantRun(damage.name, "reload", n+1)
	}
}

func TestBurstIsOneFile(t *testing.T) {
	r := newRig(t, etcdtest.Shared(t))
	r.put("/t/list/a", "0")
	r.start()
	r.wantHealth("at the start", grpc_health_v1.HealthCheckResponse_SERVING)
	client := r.etcd.Client(t)
	for i := 1; i <= 100; i++ {
		if _, err := client.Put(t.Context(), "/t/list/a", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	r.wantFile("after 100 puts", "a=100\nmesh=<no value>\n")
	if n := r.ran("reload"); n > 50 {
		t.Errorf("%d reloads for 100 puts in a row", n)
	}
}

func TestOneTime(t *testing.T) {
	once := func(r *rig) error {
		r.o.OneTime = true
		return Run(t.Context(), r.o, slog.New(slog.DiscardHandler))
	}
	t.Run("makes the file", func(t *testing.T) {
		r := newRig(t, etcdtest.Shared(t))
		r.put("/t/list/a", "1")
		if err := once(r); err != nil {
			t.Fatal(err)
		}
		r.wantFile("in the end", "a=1\nmesh=<no value>\n")
		if n := r.ran("reload"); n != 1 {
			t.Errorf("reload ran %d times, want once", n)
		}
	})
	t.Run("reports a failed command", func(t *testing.T) {
		r := newRig(t, etcdtest.Shared(t))
		r.write("check", "echo line 3 is wrong; exit 1")
		if err := once(r); err == nil || !strings.Contains(err.Error(), "line 3 is wrong") {
			t.Errorf("Run = %v, want the check's words", err)
		}
	})
	t.Run("reports a missing etcd", func(t *testing.T) {
		r := newRig(t, etcdtest.Shared(t))
		r.o.Etcd.Endpoints = []string{"http://127.0.0.1:1"}
		if err := once(r); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") {
			t.Errorf("Run = %v, want the endpoint in it", err)
		}
	})
	t.Run("reports bad resources", func(t *testing.T) {
		r := newRig(t, etcdtest.Shared(t))
		r.write("conf.d/out.toml", "[template]\n")
		if err := once(r); err == nil || !strings.Contains(err.Error(), "out.toml") {
			t.Errorf("Run = %v, want the file's name in it", err)
		}
	})
}

func TestSecondInstanceIsRefused(t *testing.T) {
	r := newRig(t, etcdtest.Shared(t))
	r.start()
	r.wantHealth("the first one", grpc_health_v1.HealthCheckResponse_SERVING)
	err := Run(t.Context(), r.o, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "confd.sock") {
		t.Errorf("Run of a second one = %v, want an error about the socket", err)
	}
}

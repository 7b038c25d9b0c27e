package transfer

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// stagingVar names the file that a process of this test writes until it is killed.
const stagingVar = "CALICO_TEST_STAGING"

// TestAKilledWriterLeavesNothing kills a process that writes a file, be there one of the name
// already or not.
func TestAKilledWriterLeavesNothing(t *testing.T) {
	if path := os.Getenv(stagingVar); path != "" {
		t.Fatal(WriteFile(path, func(w io.Writer) error {
			_, err := io.WriteString(w, "secret")
			if _, told := os.Stdout.WriteString("writing\n"); err == nil && told == nil {
				select {}
			}
			return err
		}))
	}
	for _, there := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "backup.json")
		if there {
			if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		before := names(t, filepath.Dir(path))
		cmd := exec.Command(os.Args[0], "-test.run=^TestAKilledWriterLeavesNothing$") //nolint:gosec // this program
		cmd.Env = append(os.Environ(), stagingVar+"="+path)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "writing\n" {
			t.Errorf("%q, %v", line, err)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		if left := names(t, filepath.Dir(path)); !slices.Equal(left, before) {
			t.Errorf("before %v, after %v", before, left)
		}
	}
}

func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// TestWhatWritersLeftIsRemoved has files of writers that were killed, one of a writer that
// lives, and files of others.
func TestWhatWritersLeftIsRemoved(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "backup.json")
	others := []string{".backup.json-12x", ".backup.json-", ".other.json-7"}
	for _, name := range append([]string{".backup.json-1", ".backup.json-2"}, others...) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, ".backup.json-5"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	living, err := os.Open(filepath.Join(dir, ".backup.json-2"))
	if err != nil {
		t.Fatal(err)
	}
	defer living.Close() //nolint:errcheck // the test is over
	if err := unix.Flock(int(living.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is one of the name
		if err := WriteFile(path, func(w io.Writer) error {
			_, err := io.WriteString(w, "new")
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	want := append(slices.Clone(others), ".backup.json-2", ".backup.json-5", "backup.json")
	slices.Sort(want)
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// TestAStagedFileWithAName is what there is where the file system has none without one: it is
// held as long as it is written, and goes when it cannot be.
func TestAStagedFileWithAName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "backup.json")
	s, err := stageNamed(path)
	if err != nil {
		t.Fatal(err)
	}
	if sweepStaged(path); !s.named() {
		t.Error("a file that is being written was removed")
	}
	if err := s.replace(); err != nil {
		t.Error(err)
	}
	if got := names(t, filepath.Dir(path)); !slices.Equal(got, []string{"backup.json"}) {
		t.Errorf("there is %v", got)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	failed := errors.New("no more")
	if err := WriteFile(path, func(io.Writer) error { return failed }); !errors.Is(err, failed) {
		t.Error(err)
	}
	if got := names(t, filepath.Dir(path)); !slices.Equal(got, []string{"backup.json"}) {
		t.Errorf("after a failure there is %v", got)
	}
}

package logs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// write makes a file of a log with its lines.
func write(t *testing.T, dir, program, file string, lines ...string) {
	t.Helper()
	path := filepath.Join(dir, program, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

func at(second int, text string) string {
	return fmt.Sprintf("2026-01-31_12:00:%02d.00000 %s", second, text)
}

// show reads the logs and returns "PROGRAM TEXT" for each entry.
func show(t *testing.T, o Options) []string {
	t.Helper()
	var got []string
	err := Read(t.Context(), o, func(e Entry) error {
		got = append(got, e.Program+" "+strings.ReplaceAll(e.Text, "2026-01-31_12:00:", ""))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestMergedByTimeFromTheOldestFileOn(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "felix", "current", at(5, "five"), "  more of five", at(9, "nine"))
	write(t, dir, "felix", "@400000006972e2b50a0e9f8c.s", at(1, "one"), at(3, "three"))
	write(t, dir, "felix", "@400000006972e2a00a0e9f8c.u", at(0, "zero"))
	write(t, dir, "felix", "config", "s1000000")
	write(t, dir, "bgpd", "current", "without a time", at(2, "two"), at(7, "seven"))
	all := []string{
		"bgpd without a time", "felix 00.00000 zero", "felix 01.00000 one", "bgpd 02.00000 two", "felix 03.00000 three",
		"felix 05.00000 five\n  more of five", "bgpd 07.00000 seven", "felix 09.00000 nine",
	}
	for _, tc := range []struct {
		name     string
		programs []string
		tail     int
		want     []string
	}{
		{"all", []string{"felix", "bgpd"}, -1, all},
		{"the last two", []string{"felix", "bgpd"}, 2, all[6:]},
		{"none", []string{"felix", "bgpd"}, 0, nil},
		{"more than there are", []string{"felix", "bgpd"}, 100, all},
		{"one program", []string{"bgpd"}, 1, []string{all[6]}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, show(t, Options{Dir: dir, Programs: tc.programs, Tail: tc.tail})); diff != "" {
				t.Errorf("entries (-want +got):\n%s", diff)
			}
		})
	}
	programs, err := Programs(dir)
	if err != nil || !slices.Equal(programs, []string{"bgpd", "felix"}) {
		t.Errorf("programs with a log: %v, %v", programs, err)
	}
	last, err := Last(dir, "felix", 3)
	if diff := cmp.Diff([]string{at(5, "five"), "  more of five", at(9, "nine")}, last); err != nil || diff != "" {
		t.Errorf("last lines: %v\n%s", err, diff)
	}
}

func TestALogThatIsNotThere(t *testing.T) {
	dir := t.TempDir()
	err := Read(t.Context(), Options{Dir: dir, Programs: []string{"felix"}}, nil)
	if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "felix")+" is not there") {
		t.Errorf("got %v", err)
	}
}

// TestFollowedThroughRotation has the real svlogd rotate each 2 kB, and loses no line.
func TestFollowedThroughRotation(t *testing.T) {
	if _, err := exec.LookPath("svlogd"); err != nil {
		t.Skip("svlogd is not installed (apt-get install runit)")
	}
	dir := t.TempDir()
	// svlogd begins a new file when it holds more than s bytes less the longest line.
	write(t, dir, "felix", "config", "s3000", "n0")
	cmd := exec.CommandContext(t.Context(), "svlogd", "-tt", filepath.Join(dir, "felix"))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "bgpd", "current")
	const lines = 1000
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var got bytes.Buffer
	n := 0
	done := make(chan error, 1)
	ready := make(chan struct{})
	go func() {
		close(ready)
		done <- Read(ctx, Options{Dir: dir, Programs: []string{"felix", "bgpd"}, Tail: -1, Follow: true}, func(e Entry) error {
			if e.Program != "felix" {
				return nil
			}
			fmt.Fprintln(&got, e.Text[stampLength+1:])
			if n++; n == lines {
				cancel()
			}
			return nil
		})
	}()
	<-ready
	var want bytes.Buffer
	pause := time.NewTicker(time.Millisecond)
	defer pause.Stop()
	for i := range lines {
		fmt.Fprintf(&want, "line %d\n", i)
		fmt.Fprintf(in, "line %d\n", i)
		<-pause.C
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	_ = in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.String(), got.String()); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	files, err := list(filepath.Join(dir, "felix"))
	if err != nil || len(files) < 5 {
		t.Errorf("only %d files, %v: the log was not rotated", len(files), err)
	}
}

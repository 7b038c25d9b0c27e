package logattr_test

import (
	"bufio"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"calico.internal/libcalico/logattr"
)

// A program whose log nobody reads goes on, and tells later what was lost.
func TestALogThatNobodyReads(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out := logattr.Lossy(w)
	log := logattr.New(out, slog.LevelInfo, logattr.FormatText)
	done := make(chan struct{})
	const entries = 5000
	go func() {
		defer close(done)
		for i := range entries {
			log.Info("entry", logattr.Count, i, logattr.Why, strings.Repeat("x", i%9000))
		}
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("the program waits for a reader of its log")
	}
	lines, told := bufio.NewScanner(r), false
	lines.Buffer(nil, 1<<20)
	for first := true; lines.Scan(); {
		line := lines.Text()
		if strings.Contains(line, " entries of this log were lost: ") {
			told = true
		} else if !strings.HasPrefix(line, "time=") {
			t.Errorf("a line is torn: %.100q", line)
		}
		if first { // there is room now
			first = false
			go func() {
				for range 10_000 {
					log.Info("once more")
				}
				_ = w.Close()
			}()
		}
	}
	if !told {
		t.Error("nothing tells that entries were lost")
	}
}

// With a reader nothing is lost, whatever the length of a line.
func TestALogThatIsRead(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Repeat(strings.Repeat("line", 50_000)+"\n", 20)
	go func() {
		out := logattr.Lossy(w)
		for line := range strings.Lines(want) {
			if n, err := io.WriteString(out, line); n != len(line) || err != nil {
				t.Errorf("%d bytes, %v", n, err)
			}
		}
		_ = w.Close()
	}()
	if got, err := io.ReadAll(r); err != nil || string(got) != want {
		t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
	}
}

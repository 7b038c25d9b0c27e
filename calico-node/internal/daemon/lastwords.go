package daemon

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"calico.internal/calico-node/internal/judge"
)

// wordsLimit is how much is read of the end of a log, and wordsShown how much of that is shown.
const (
	wordsLimit = 4096
	wordsShown = 300
)

// stamp is the time that svlogd -tt puts before a line.
var stamp = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}_[0-9:.]+ `)

// quoteLastWords adds to programs that end again and again what they logged last, which mostly says
// why.
func (d *daemon) quoteLastWords(programs []judge.Program) {
	if !d.settings.files {
		return
	}
	for i, p := range programs {
		if p.State != judge.CrashLoop {
			continue
		}
		if words := lastWords(filepath.Join(d.cfg.LogDir, p.Name, "current")); words != "" {
			programs[i].Why += ", and said: " + words
		}
	}
}

// lastWords is the last line of a log; empty if there is none.
func lastWords(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close() //nolint:errcheck // only read
	if info, err := f.Stat(); err == nil && info.Size() > wordsLimit {
		_, _ = f.Seek(-wordsLimit, io.SeekEnd)
	}
	text, err := io.ReadAll(io.LimitReader(f, wordsLimit))
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	words := stamp.ReplaceAllString(lines[len(lines)-1], "")
	if runes := []rune(words); len(runes) > wordsShown {
		words = string(runes[:wordsShown]) + "…"
	}
	return words
}

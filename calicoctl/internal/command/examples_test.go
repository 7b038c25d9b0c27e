package command

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestExamplesAreTaken checks that each command line that help shows, and each of the README,
// is one that the program takes: it ends for want of a datastore, not for how it is written.
func TestExamplesAreTaken(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	lines := commandLines(string(readme), "$ calicoctl ")
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		lines = append(lines, commandLines(cmd.Example, "calicoctl ")...)
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(NewRoot(&Env{Getenv: func(string) string { return "" }}))
	const few = 40 // there are some more; none found would prove nothing
	if len(lines) < few {
		t.Fatalf("only %d examples found", len(lines))
	}
	version := ""
	for _, line := range lines {
		if to, ok := strings.CutPrefix(line, versionVariable); ok {
			version = words(to)[0]
			continue
		}
		var out, said bytes.Buffer
		env := &Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &said, Getenv: func(name string) string {
			return map[string]string{"ETCD_ENDPOINTS": "http://127.0.0.1:1", "CALICOCTL_API_VERSION": version}[name]
		}}
		args := words(line)
		if args[0] == "node" { // what is done on hosts
			continue
		}
		if Run(stopped(), env, args); strings.Contains(said.String(), "--help' for usage") {
			t.Errorf("calicoctl %s: %s", line, &said)
		}
	}
}

// stopped is a context that has ended: nobody waits for a datastore.
func stopped() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// versionVariable begins what commandLines has for a line that sets it; an empty value ends that.
const versionVariable = "CALICOCTL_API_VERSION="

// commandLines is the lines of a text that begin with a prefix, without it, and those by which
// a code block sets the version for the lines after it.
func commandLines(text, prefix string) (lines []string) {
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", "")) {
		if strings.HasPrefix(line, "```") {
			lines = append(lines, versionVariable+"''")
		}
		if rest, ok := strings.CutPrefix(line, "$ export "+versionVariable); ok {
			lines = append(lines, versionVariable+rest)
		}
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), prefix); ok {
			lines = append(lines, rest)
		}
	}
	return lines
}

// words splits a command line as a shell does, up to what is a comment or for the shell.
func words(line string) (out []string) {
	word, quoted, inWord := "", false, false
	for _, c := range line {
		switch {
		case c == '\'':
			quoted, inWord = !quoted, true
		case !quoted && c == ' ' && inWord:
			out, word, inWord = append(out, word), "", false
		case !quoted && c == ' ':
		case !quoted && !inWord && strings.ContainsRune("#|<>", c):
			return out
		default:
			word, inWord = word+string(c), true
		}
	}
	if inWord {
		out = append(out, word)
	}
	return out
}

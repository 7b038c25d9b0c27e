// Command faults runs the tests that the table of test/faults/README.md lists, and prints
// the table with what came out. With arguments it runs those rows only.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"calico.internal/test/internal/faultlist"
)

const (
	table = "test/faults/README.md"
	// perPackage ends the tests of a package that hang.
	perPackage = "40m"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, ids []string, stdout, stderr io.Writer) int {
	text, err := os.ReadFile(table)
	if err != nil {
		fmt.Fprintf(stderr, "faults: %v; call it from the top of the repository\n", err)
		return 2
	}
	rows, err := faultlist.Parse(string(text))
	if err != nil {
		fmt.Fprintf(stderr, "faults: %s: %v\n", table, err)
		return 2
	}
	if rows = chosen(rows, ids); len(rows) == 0 {
		fmt.Fprintf(stderr, "faults: no row %s in %s\n", strings.Join(ids, " "), table)
		return 2
	}
	done, err := runAll(ctx, rows, stdout, stderr)
	if err != nil {
		fmt.Fprintf(stderr, "faults: %v\n", err)
		return 1
	}
	return report(rows, done, stdout)
}

func chosen(rows []faultlist.Row, ids []string) []faultlist.Row {
	if len(ids) == 0 {
		return rows
	}
	return slices.DeleteFunc(rows, func(r faultlist.Row) bool { return !slices.Contains(ids, r.ID) })
}

// outcome is what became of a test.
type outcome struct {
	action string // pass, fail or skip
	took   time.Duration
}

// runAll runs the tests package by package.
func runAll(ctx context.Context, rows []faultlist.Row, stdout, stderr io.Writer) (map[faultlist.Test]outcome, error) {
	var packages []string
	byPackage := map[string][]faultlist.Test{}
	for _, r := range rows {
		for _, t := range r.Tests {
			if byPackage[t.Package] == nil {
				packages = append(packages, t.Package)
			}
			if !slices.Contains(byPackage[t.Package], t) {
				byPackage[t.Package] = append(byPackage[t.Package], t)
			}
		}
	}
	done := map[faultlist.Test]outcome{}
	for _, p := range packages {
		fmt.Fprintf(stdout, "== %s: %d tests\n", p, len(byPackage[p]))
		if err := runPackage(ctx, p, byPackage[p], done, stdout, stderr); err != nil {
			return nil, err
		}
	}
	return done, nil
}

// event is a line of `go test -json`.
type event struct {
	Action, Test, Output string
	Elapsed              float64
}

// runPackage runs the tests of one package: whole functions together, and the chosen subtests
// of a function by themselves.
func runPackage(ctx context.Context, pkg string, tests []faultlist.Test, done map[faultlist.Test]outcome, stdout, stderr io.Writer) error {
	var whole, split []string
	parts := map[string][]string{}
	for _, t := range tests {
		f, part, some := strings.Cut(t.Name, "/")
		if !some {
			whole = append(whole, f)
			continue
		}
		if parts[f] == nil {
			split = append(split, f)
		}
		parts[f] = append(parts[f], part)
	}
	var patterns []string
	if len(whole) > 0 {
		patterns = append(patterns, "^("+strings.Join(whole, "|")+")$")
	}
	for _, f := range split {
		patterns = append(patterns, "^"+f+"$/^("+strings.Join(parts[f], "|")+")$")
	}
	for _, pattern := range patterns {
		if err := runPattern(ctx, pkg, pattern, done, stdout, stderr); err != nil {
			return err
		}
	}
	return nil
}

func runPattern(ctx context.Context, pkg, pattern string, done map[faultlist.Test]outcome, stdout, stderr io.Writer) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-timeout="+perPackage, "-json", "-run", pattern, "calico.internal/"+pkg)
	cmd.Stderr = stderr
	lines, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("go test %s: %w", pkg, err)
	}
	output := map[string][]string{}
	scanner := bufio.NewScanner(lines)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		var e event
		if json.Unmarshal(scanner.Bytes(), &e) != nil {
			continue
		}
		switch e.Action {
		case "output":
			output[e.Test] = append(output[e.Test], e.Output)
		case "pass", "fail", "skip":
			if e.Action != "pass" {
				fmt.Fprint(stdout, strings.Join(output[e.Test], ""))
			}
			delete(output, e.Test)
			done[faultlist.Test{Package: pkg, Name: e.Test}] = outcome{e.Action, time.Duration(e.Elapsed * float64(time.Second))}
		}
	}
	// How it ended is told by the tests; one that is not among them has not passed.
	_ = cmd.Wait()
	return scanner.Err()
}

// report prints the table, and a line that counts.
func report(rows []faultlist.Row, done map[faultlist.Test]outcome, stdout io.Writer) int {
	count := map[string]int{}
	fmt.Fprintln(stdout)
	for _, r := range rows {
		for _, t := range r.Tests {
			o, ran := done[t]
			if !ran {
				o.action = "fail"
			}
			count[o.action]++
			fmt.Fprintf(stdout, "%-5s %-4s %s: %s %s (%.1fs)\n", strings.ToUpper(o.action), r.ID, r.What, t.Package, t.Name, o.took.Seconds())
		}
	}
	fmt.Fprintf(stdout, "\n%d passed, %d failed, %d skipped\n", count["pass"], count["fail"], count["skip"])
	if count["fail"] > 0 {
		return 1
	}
	return 0
}

package calc

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/libcalico/store"
)

var update = flag.Bool("update", false, "rewrite the scripts' expected output")

// TestScripts runs the scripts of testdata/calc: what is written to etcd, and below a
// line of dashes what becomes of the desired state. A line is "put <path> <value>" or "del
// <path>"; the lines of one block arrive in one batch; "state" and "problems" show
// everything there is. Sets of selectors are shown as the selector in braces.
//
// Each script is then run again many times with its writes in other orders, repeated,
// squashed and interleaved with others, and must end in the same state. A script whose
// first line contains "depends on history" is excepted.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "..", "testdata", "calc", "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := newScript(t)
			got := s.run(string(text))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if diff := cmp.Diff(string(text), got); diff != "" {
				t.Errorf("(-want +got):\n%s\nrun with -update if this is right", diff)
			}
			first, _, _ := strings.Cut(string(text), "\n")
			if !strings.Contains(first, "depends on history") {
				s.permute(t)
			}
		})
	}
}

// script is an engine behind a view of a store, as in the daemon.
type script struct {
	t        testing.TB
	view     *store.View
	engine   *Engine
	mirror   *mirror
	revision int64
	names    map[string]string // selectors by set id

	// current is what the store holds; history is every write of the script.
	current map[string]store.KV
	history []store.KV
}

func newScript(t testing.TB) *script {
	return &script{
		t: t, view: store.New(store.Options{KeepLastGood: true}), engine: New("here", "cali"), mirror: newMirror(t),
		names: map[string]string{}, current: map[string]store.KV{},
	}
}

// run runs the blocks of a script and returns it with the output that came.
func (s *script) run(text string) string {
	var blocks []string
	for block := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		input, _, hasOutput := strings.Cut(block, "\n----")
		if !hasOutput && strings.HasPrefix(block, "#") && !strings.Contains(block, "\nput ") && !strings.Contains(block, "\ndel ") {
			blocks = append(blocks, block) // a comment
			continue
		}
		blocks = append(blocks, input+"\n----\n"+s.block(input))
	}
	return strings.Join(blocks, "\n\n") + "\n"
}

func (s *script) block(input string) string {
	b := store.Batch{Snapshot: s.revision == 0}
	s.revision++
	b.Revision = s.revision
	show := ""
	for line := range strings.Lines(input) {
		line = strings.TrimSpace(line)
		verb, rest, _ := strings.Cut(line, " ")
		path, value, _ := strings.Cut(rest, " ")
		switch {
		case line == "" || line[0] == '#':
		case verb == "put":
			kv := store.KV{Path: path, Value: []byte(strings.TrimSpace(value)), ModRevision: s.revision}
			b.Puts = append(b.Puts, kv)
			s.history = append(s.history, kv)
			s.current[path] = kv
		case verb == "del":
			b.Deletes = append(b.Deletes, path)
			delete(s.current, path)
		case verb == "state" || verb == "problems":
			show = verb
		default:
			s.t.Fatalf("line %q: not known", line)
		}
	}
	problems := problemsText(s.engine.Problems())
	changes := s.feed(b)
	switch show {
	case "state":
		return s.readable(strings.TrimSuffix(s.mirror.String(), "\n"))
	case "problems":
		return orNothing(strings.Join(problemsText(s.engine.Problems()), "\n"))
	}
	var out strings.Builder
	out.WriteString(changes)
	for _, p := range problemsText(s.engine.Problems()) {
		if !slices.Contains(problems, p) {
			out.WriteString("problem " + p + "\n")
		}
	}
	return orNothing(s.readable(strings.TrimSuffix(out.String(), "\n")))
}

func orNothing(text string) string {
	if text == "" {
		return "(nothing)"
	}
	return text
}

// feed passes a batch through view, engine and mirror.
func (s *script) feed(b store.Batch) string {
	s.engine.Apply(s.view.Apply(b))
	s.engine.ApplyQuarantine(s.view.Quarantined())
	s.learnNames()
	c := s.engine.Flush()
	s.learnNames()
	s.mirror.apply(c)
	checkSets(s.t, s.engine, s.mirror)
	return changesText(c)
}

func (s *script) learnNames() {
	for id, set := range s.engine.sets.all {
		if set.sub != nil {
			s.names[string(id)] = "{" + set.sub.sel.String() + "}"
		}
	}
}

// readable puts selectors in the place of their sets' ids.
func (s *script) readable(text string) string {
	for id, name := range s.names {
		text = strings.ReplaceAll(text, id, name)
	}
	return text
}

// permutations is how many other ways to the same end are tried for each script.
const permutations = 60

// permute leads other engines to the end of the script in other ways.
func (s *script) permute(t *testing.T) {
	want := s.mirror.String() + strings.Join(problemsText(s.engine.Problems()), "\n")
	for seed := range uint64(permutations) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		other := newScript(t)
		other.engine.prefixes = s.engine.prefixes
		batches := s.otherWay(rnd)
		for _, b := range batches {
			other.feed(b)
		}
		got := other.mirror.String() + strings.Join(problemsText(other.engine.Problems()), "\n")
		if diff := cmp.Diff(want, got); diff != "" {
			var way strings.Builder
			for _, b := range batches {
				fmt.Fprintf(&way, "snapshot=%v", b.Snapshot)
				for _, kv := range b.Puts {
					fmt.Fprintf(&way, "\n  put %s %s", kv.Path, kv.Value)
				}
				fmt.Fprintf(&way, "\n  del %v\n", b.Deletes)
			}
			t.Fatalf("way %d ends in another state (-script +way):\n%s\n%s", seed, s.readable(diff), way.String())
		}
	}
}

// otherWay makes a random sequence of batches that ends in what the script's store holds
// at its end: writes of the script come in any order and any number, as deletes of things
// that are there or not, in batches of any size, with snapshots between.
func (s *script) otherWay(rnd *rand.Rand) []store.Batch {
	type write struct {
		kv  store.KV
		del bool
	}
	var writes []write
	for range rnd.IntN(3 * len(s.history)) {
		kv := s.history[rnd.IntN(len(s.history))]
		writes = append(writes, write{kv, rnd.IntN(4) == 0})
	}
	final := slices.SortedFunc(maps.Values(s.current), func(a, b store.KV) int { return strings.Compare(a.Path, b.Path) })
	rnd.Shuffle(len(final), func(i, j int) { final[i], final[j] = final[j], final[i] })
	for _, kv := range s.history {
		if _, there := s.current[kv.Path]; !there {
			writes = append(writes, write{kv, true})
		}
	}
	for _, kv := range final {
		// A value that is there already, written once more, has a new revision only.
		writes = append(writes, write{kv, true}, write{kv, false})
	}

	held := map[string]store.KV{}
	batches := []store.Batch{{Snapshot: true, Revision: 1}}
	for len(writes) > 0 {
		b := store.Batch{Revision: int64(len(batches) + 1)}
		touched := map[string]bool{}
		for range 1 + rnd.IntN(4) {
			if len(writes) == 0 || touched[writes[0].kv.Path] {
				break
			}
			w := writes[0]
			writes = writes[1:]
			touched[w.kv.Path] = true
			if w.del {
				b.Deletes = append(b.Deletes, w.kv.Path)
				delete(held, w.kv.Path)
			} else {
				b.Puts = append(b.Puts, w.kv)
				held[w.kv.Path] = w.kv
			}
		}
		if rnd.IntN(6) == 0 {
			b = store.Batch{Snapshot: true, Revision: b.Revision, Puts: slices.Collect(maps.Values(held))}
		}
		batches = append(batches, b)
	}
	return batches
}

package calc

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/selector"
)

// crowd is a world with many labels, of which each item has few, as it is where labels
// name applications; and the relation that an index of it must keep, found the slow way.
type crowd struct {
	*rand.Rand
	t *testing.T

	index   *index
	items   map[model.Key]*model.WorkloadEndpoint
	parents map[string]*model.Profile
	subs    map[string]*subscription
	// running are the matches of which the index told that they began, by selector and item.
	running map[string]bool
}

const (
	crowdItems     = 60
	crowdLabels    = 24
	crowdValues    = 4
	crowdParents   = 8
	crowdSelectors = 40
)

func newCrowd(t *testing.T, seed uint64) *crowd {
	c := &crowd{
		Rand: rand.New(rand.NewPCG(seed, 7)), t: t, items: map[model.Key]*model.WorkloadEndpoint{},
		parents: map[string]*model.Profile{}, subs: map[string]*subscription{}, running: map[string]bool{},
	}
	c.index = newIndex(
		func(s *subscription, it *item) {
			if name := matchName(s, it); c.running[name] {
				t.Errorf("%s begins twice", name)
			} else {
				c.running[name] = true
			}
		},
		func(s *subscription, it *item) {
			if name := matchName(s, it); !c.running[name] {
				t.Errorf("%s ends without having begun", name)
			} else {
				delete(c.running, name)
			}
		},
	)
	return c
}

func matchName(s *subscription, it *item) string { return s.sel.String() + " ~ " + it.key.String() }

func (c *crowd) label() string { return fmt.Sprintf("l%d", c.IntN(crowdLabels)) }
func (c *crowd) value() string { return fmt.Sprintf("v%d", c.IntN(crowdValues)) }

func (c *crowd) labels(most int) map[string]string {
	labels := map[string]string{}
	for range c.IntN(most + 1) {
		labels[c.label()] = c.value()
	}
	return labels
}

// expression makes a selector of a depth.
func (c *crowd) expression(depth int) string {
	if depth > 0 {
		a, b := c.expression(depth-1), c.expression(depth-1)
		return []string{"(" + a + " && " + b + ")", "(" + a + " || " + b + ")", "!(" + a + ")"}[c.IntN(3)]
	}
	l, v, w := c.label(), c.value(), c.value()
	return []string{
		fmt.Sprintf("%s == '%s'", l, v), fmt.Sprintf("%s != '%s'", l, v), fmt.Sprintf("has(%s)", l), fmt.Sprintf("!has(%s)", l),
		fmt.Sprintf("%s in {'%s','%s'}", l, v, w), fmt.Sprintf("%s not in {'%s','%s'}", l, v, w), fmt.Sprintf("%s starts with 'v'", l), "all()",
		fmt.Sprintf("%s == ''", l),
	}[c.IntN(9)]
}

func (c *crowd) step() {
	switch c.IntN(8) {
	case 0, 1, 2:
		key := model.WorkloadEndpointKey{Node: "here", Orchestrator: "o", Workload: "w", Name: fmt.Sprint(c.IntN(crowdItems))}
		if c.IntN(4) == 0 {
			delete(c.items, key)
			c.index.deleteItem(key)
			return
		}
		e := &model.WorkloadEndpoint{Labels: c.labels(5)}
		for range c.IntN(3) {
			e.Profiles = append(e.Profiles, fmt.Sprintf("p%d", c.IntN(crowdParents)))
		}
		c.items[key] = e
		c.index.setItem(key, e)
	case 3, 4:
		name := fmt.Sprintf("p%d", c.IntN(crowdParents))
		if c.IntN(4) == 0 {
			delete(c.parents, name)
			c.index.deleteParent(name)
			return
		}
		p := &model.Profile{Labels: c.labels(3)}
		for range c.IntN(3) {
			p.Tags = append(p.Tags, c.label())
		}
		c.parents[name] = p
		c.index.setParent(name, p.Labels, p.Tags)
	default:
		if len(c.subs) >= crowdSelectors {
			for id, s := range c.subs {
				c.unsubscribe(id, s)
				return
			}
		}
		sel, err := selector.Parse(c.expression(c.IntN(3)))
		if err != nil {
			c.t.Fatal(err)
		}
		c.subs[sel.ID()] = c.index.subscribe(sel, func(*subscription) {})
	}
}

func (c *crowd) unsubscribe(id string, s *subscription) {
	delete(c.subs, id)
	for it := range s.matches { // of which the index does not tell
		delete(c.running, matchName(s, it))
	}
	c.index.unsubscribe(s)
}

// effective are the labels of an item by what the documents say: its own, then those of
// its profiles in their order, then tags.
func (c *crowd) effective(e *model.WorkloadEndpoint) selector.Map {
	out := selector.Map{}
	for _, name := range slices.Backward(e.Profiles) {
		if p := c.parents[name]; p != nil {
			for _, t := range p.Tags {
				out[t] = ""
			}
		}
	}
	for _, name := range slices.Backward(e.Profiles) {
		if p := c.parents[name]; p != nil {
			maps.Copy(out, p.Labels)
		}
	}
	maps.Copy(out, e.Labels)
	return out
}

// check compares what the index keeps with what is so.
func (c *crowd) check(when string) {
	c.t.Helper()
	want := map[string]bool{}
	for _, s := range c.subs {
		for key, e := range c.items {
			if s.sel.Match(c.effective(e)) {
				want[s.sel.String()+" ~ "+key.String()] = true
			}
		}
	}
	var wrong []string
	for name := range want {
		if !c.running[name] {
			wrong = append(wrong, "missing: "+name)
		}
	}
	for name := range c.running {
		if !want[name] {
			wrong = append(wrong, "too many: "+name)
		}
	}
	if len(wrong) > 0 {
		slices.Sort(wrong)
		c.t.Fatalf("%s: %d of %d matches are wrong:\n%s", when, len(wrong), len(want), strings.Join(wrong[:min(len(wrong), 10)], "\n"))
	}
}

func TestTheIndexOfManyLabelsIsWhatSelectorsSay(t *testing.T) {
	for seed := range uint64(10) {
		c := newCrowd(t, seed)
		for n := range 600 {
			c.step()
			if n%20 == 0 {
				c.check(fmt.Sprintf("seed %d, step %d", seed, n))
			}
		}
		c.check(fmt.Sprintf("seed %d, at the end", seed))

		// Nothing is left of what is gone.
		for id, s := range c.subs {
			c.unsubscribe(id, s)
		}
		for key := range c.items {
			c.index.deleteItem(key)
		}
		for name := range c.parents {
			c.index.deleteParent(name)
		}
		x := c.index
		if n := len(x.items) + len(x.parents) + len(x.subs) + len(x.itemsBy) + len(x.parentsBy) + len(x.subsBy) + len(x.subsAny) + len(x.looked) + len(c.running); n > 0 {
			t.Errorf("seed %d: the empty index holds %d things: %+v", seed, n, x)
		}
	}
}

func TestASelectorIsFoundByTheConditionThatFewestFulfil(t *testing.T) {
	for text, want := range map[string]string{
		"all()":                               "",
		"!has(a)":                             "",
		"a != 'x'":                            "",
		"a == 'x' || b == 'y'":                "",
		"has(a)":                              "a: any",
		"a == 'x'":                            "a: [x]",
		"has(a) && b == 'y'":                  "b: [y]",
		"a in {'x','y','z'} && b == 'y'":      "b: [y]",
		"a == 'x' && b == 'y'":                "a: [x]",
		"!(has(a)) && b in {'x'}":             "b: [x]",
		"a starts with 'x' && b not in {'y'}": "a: any",
	} {
		sel, err := selector.Parse(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		_, need := analyse(sel)
		got := ""
		switch {
		case need == nil:
		case need.anyValue:
			got = need.label + ": any"
		default:
			got = fmt.Sprintf("%s: %v", need.label, need.values)
		}
		if got != want {
			t.Errorf("%s is found by %q, want %q", text, got, want)
		}
	}
}

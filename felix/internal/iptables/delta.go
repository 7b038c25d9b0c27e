package iptables

// edit is one change of a chain by position, counted from 1 as iptables does.
type edit struct {
	// remove deletes the rule at position; otherwise rule is put there.
	remove   bool
	position int
	rule     Rule
	// atEnd puts the rule behind the last one; position is not used.
	atEnd bool
}

// maxMatrix bounds the cells of the table that finds the longest common sequence;
// beyond it the differing part is replaced as a whole.
const maxMatrix = 1 << 20

// diff lists the edits, in the order in which they must be made, that turn the rules
// have into want. Rules that both have in the same order stay untouched, with their
// counters. The edits go from the end of the chain to its beginning, so that every
// position is one of the chain as it was read; new rules at the end are appended.
func diff(have, want []Rule) []edit {
	start := 0
	for start < len(have) && start < len(want) && have[start].Hash == want[start].Hash {
		start++
	}
	endH, endW := len(have), len(want)
	for endH > start && endW > start && have[endH-1].Hash == want[endW-1].Hash {
		endH--
		endW--
	}
	keep := common(have[start:endH], want[start:endW])

	var edits []edit
	h, w := endH, endW
	for i := len(keep); i >= 0; i-- {
		// Between two kept rules: put the new rules, then drop the old ones.
		loH, loW := start, start
		if i > 0 {
			loH, loW = start+keep[i-1].have+1, start+keep[i-1].want+1
		}
		edits = append(edits, replaceSpan(have, want, span{loH, h, loW, w})...)
		if i > 0 {
			h, w = start+keep[i-1].have, start+keep[i-1].want
		}
	}
	return edits
}

// span is a part of a chain that differs: have[h0:h1] becomes want[w0:w1].
type span struct{ h0, h1, w0, w1 int }

// replaceSpan gives the edits of one span. New rules go before the rule that follows the
// span, which is an old one and therefore has a handle in nf_tables.
func replaceSpan(have, want []Rule, r span) []edit {
	var edits []edit
	for n, rule := range want[r.w0:r.w1] {
		if r.h1 == len(have) {
			edits = append(edits, edit{atEnd: true, rule: rule})
			continue
		}
		edits = append(edits, edit{position: r.h1 + 1 + n, rule: rule})
	}
	for i := r.h1 - 1; i >= r.h0; i-- {
		edits = append(edits, edit{remove: true, position: i + 1})
	}
	return edits
}

// pair says that have[have] and want[want] are the same rule.
type pair struct{ have, want int }

// common finds the longest common sequence, as indexes.
func common(have, want []Rule) []pair {
	n, m := len(have), len(want)
	if n == 0 || m == 0 || n*m > maxMatrix {
		return nil
	}
	// length[i][j] is the length for have[i:] and want[j:].
	length := make([]int32, (n+1)*(m+1))
	at := func(i, j int) *int32 { return &length[i*(m+1)+j] }
	for i := n - 1; i >= 0; i-- {
		for j := m - 1; j >= 0; j-- {
			if have[i].Hash == want[j].Hash {
				*at(i, j) = *at(i+1, j+1) + 1
				continue
			}
			*at(i, j) = max(*at(i+1, j), *at(i, j+1))
		}
	}
	var out []pair
	for i, j := 0, 0; i < n && j < m; {
		switch {
		case have[i].Hash == want[j].Hash:
			out = append(out, pair{i, j})
			i++
			j++
		case *at(i+1, j) >= *at(i, j+1):
			i++
		default:
			j++
		}
	}
	return out
}

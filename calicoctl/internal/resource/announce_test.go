package resource

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestLongWritesTellHowFarTheyAre checks that a write of very many objects says now and then
// how many are done, and one of fewer says nothing.
func TestLongWritesTellHowFarTheyAre(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	var told []string
	s.OnProgress(func(done, all int) { told = append(told, fmt.Sprint(done, " of ", all)) })
	sets := func(tag string, n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "- {apiVersion: projectcalico.org/v3, kind: GlobalNetworkSet, metadata: {name: %s%d}, spec: {nets: [10.0.0.0/8]}}\n", tag, i)
		}
		return b.String()
	}
	for _, tt := range []struct {
		tag     string
		objects int
		want    int
	}{
		{"few", announceEvery, 0},
		{"many", 2*announceEvery + 500, 2},
	} {
		told = nil
		if _, err := s.Write(ctx, Apply, objects(t, sets(tt.tag, tt.objects))); err != nil {
			t.Fatal(err)
		}
		if len(told) != tt.want {
			t.Errorf("%d objects: %q, want %d lines", tt.objects, told, tt.want)
		}
		if all := fmt.Sprint(" of ", tt.objects); slices.ContainsFunc(told, func(line string) bool { return !strings.HasSuffix(line, all) }) {
			t.Errorf("%d objects: %q", tt.objects, told)
		}
	}
}

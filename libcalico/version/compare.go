package version

import (
	"slices"
	"strconv"
	"strings"
)

// AtLeast says whether a program of a version may do what needs another one. What stands
// behind the three numbers does not count. A version that is no release, such as a
// developer's "dev", is taken for newer than all releases.
func AtLeast(have, need string) bool {
	return slices.Compare(numbers(have), numbers(need)) >= 0
}

// IsRelease says whether a version has numbers to compare, as in v1.2.3.
func IsRelease(v string) bool { return numbers(v)[0] != unreleased }

const unreleased = 1 << 62

func numbers(v string) []int {
	core, _, _ := strings.Cut(v, "+")
	core, _, _ = strings.Cut(core, "-")
	parts := strings.Split(strings.TrimPrefix(core, "v"), ".")
	out := make([]int, len(parts))
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 10, 31)
		if err != nil || len(parts) != 3 {
			return []int{unreleased}
		}
		out[i] = int(n)
	}
	return out
}

package lab

import (
	"fmt"
	"regexp"
	"strings"
)

// want is a condition on a text, with the words that a failure shows.
type want struct {
	text  string
	holds func(string) bool
}

func contains(part string) want {
	return want{fmt.Sprintf("%q in the output", part), func(got string) bool { return strings.Contains(got, part) }}
}

func lacks(part string) want {
	return want{fmt.Sprintf("no %q in the output", part), func(got string) bool { return !strings.Contains(got, part) }}
}

func matches(expression string) want {
	re := regexp.MustCompile(`(?m)` + expression)
	return want{"output that matches " + expression, re.MatchString}
}

func equals(text string) want {
	return want{"exactly\n" + text, func(got string) bool { return strings.TrimSpace(got) == strings.TrimSpace(text) }}
}

// find is the first group of the first match, or an empty string.
func find(expression, text string) string {
	m := regexp.MustCompile(`(?m)` + expression).FindStringSubmatch(text)
	if len(m) < 2 {
		return ""
	}
	return m[1]
}

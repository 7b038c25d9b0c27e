package model

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

const (
	maxName        = 128
	maxInterface   = 15
	maxLabelName   = 512
	maxLabelValue  = 63
	maxHandle      = 512
	maxLogPrefix   = 27
	maxLabels      = 1000
	maxAnnotations = 256 << 10
)

// The rules for names, as messages tell them.
const (
	nameRule           = "must be 1 to 128 letters, digits, '_', '.' or '-'"
	pathNameRule       = "must be 1 to 128 letters, digits, '_', '.', '-' or '/'"
	interfaceRule      = "must be 1 to 15 letters, digits, '_', '.' or '-'"
	labelNameRule      = "label name must be 1 to 512 letters, digits, '_', '.', '/' or '-'"
	labelValueRule     = "label value must be at most 63 letters, digits, '_', '.' or '-', a letter or digit first and last"
	annotationNameRule = "annotation name must be 1 to 512 printable characters without spaces"
	logPrefixRule      = "must be at most 27 letters, digits, spaces or any of '_.:/-'"
)

func isLetter(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
}

func isAlphanumeric(r rune) bool {
	return isLetter(r) || r >= '0' && r <= '9'
}

// consists says whether s has 1 to limit characters, each a letter, a digit or one
// of extra.
func consists(s, extra string, limit int) bool {
	return s != "" && len(s) <= limit && !strings.ContainsFunc(s, func(r rune) bool {
		return !isAlphanumeric(r) && !strings.ContainsRune(extra, r)
	})
}

func isName(s string) bool { return consists(s, "_.-", maxName) }

func isPathName(s string) bool { return consists(s, "_.-/", maxName) }

// isInterface follows the kernel, which refuses "." and "..".
func isInterface(s string) bool {
	return consists(s, "_.-", maxInterface) && s != "." && s != ".."
}

// interfaceReason says why a name is no interface's. The label of a second address, as
// ifconfig shows it, looks like one; the packets to that address come by the interface.
func interfaceReason(s string) string {
	if iface, _, labelled := strings.Cut(s, ":"); labelled && isInterface(iface) {
		return s + " is an address label; name " + iface
	}
	return interfaceRule
}

// isInterfacePattern allows an asterisk at the end.
func isInterfacePattern(s string) bool {
	return s == "*" || isInterface(strings.TrimSuffix(s, "*"))
}

func isLabelName(s string) bool { return consists(s, "_./-", maxLabelName) }

func isLabelValue(s string) bool {
	if s == "" {
		return true
	}
	return consists(s, "_.-", maxLabelValue) && isAlphanumeric(rune(s[0])) && isAlphanumeric(rune(s[len(s)-1]))
}

func isAnnotationName(s string) bool {
	return s != "" && len(s) <= maxLabelName && !strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r)
	})
}

func isMAC(s string) bool {
	octets := strings.Split(s, ":")
	return len(octets) == 6 && !slices.ContainsFunc(octets, func(octet string) bool {
		_, err := strconv.ParseUint(octet, 16, 8)
		return err != nil || len(octet) != 2
	})
}

func isLogPrefix(s string) bool { return s == "" || consists(s, "_.:/- ", maxLogPrefix) }

// isHandle allows whatever can be shown: owners make up their handles.
func isHandle(s string) bool {
	return s != "" && len(s) <= maxHandle && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

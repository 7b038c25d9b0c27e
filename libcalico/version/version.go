// Package version tells which build of the project a program is. It is pure.
package version

import "fmt"

// Set by the linker:
//
//	go build -ldflags "-X calico.internal/libcalico/version.Version=v1.2.3 …"
var (
	// Version is the release, such as v1.2.3.
	Version = "dev"
	// Commit is the short hash of the source's commit.
	Commit = "unknown"
	// BuildDate is the time of the build, as RFC 3339 writes it.
	BuildDate = "unknown"
)

// String is the version on one line, such as "v1.2.3 (1a2b3c4, 2026-01-02T03:04:05Z)".
func String() string {
	return fmt.Sprintf("%s (%s, %s)", Version, Commit, BuildDate)
}

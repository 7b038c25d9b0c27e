package daemon

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// capNetAdmin and capNetRaw are the bits of the capabilities that felix needs.
const (
	capNetAdmin = 12
	capNetRaw   = 13
)

// preflight checks what can be known before anything is done.
func preflight() error {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return fmt.Errorf("read own capabilities: %w", err)
	}
	return checkCapabilities(string(text))
}

// checkCapabilities reads the effective capabilities from the text of /proc/self/status.
func checkCapabilities(status string) error {
	for line := range strings.Lines(status) {
		value, found := strings.CutPrefix(line, "CapEff:")
		if !found {
			continue
		}
		caps, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if err != nil {
			return fmt.Errorf("read own capabilities: %w", err)
		}
		if caps&(1<<capNetAdmin) == 0 || caps&(1<<capNetRaw) == 0 {
			return errors.New("felix may not change the network here: run it as root, or give it the capabilities NET_ADMIN and NET_RAW")
		}
		return nil
	}
	return nil
}

package hostrecord

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"

	"calico.internal/libcalico/model"
)

// These environment variables say which start of the host this is, where the kernel does not
// tell: hosts that share a kernel, as in the lab. One names a file that holds it, for programs
// whose environment outlives the host's start, as that of a container does.
const (
	BootVariable     = "CALICO_BOOT_ID"
	BootFileVariable = "CALICO_BOOT_ID_FILE"
)

const bootFile = "/proc/sys/kernel/random/boot_id"

// Identity says which host this is. Its id is made when there is none yet, and kept in the
// record: it needs the directory to be one that outlives the host's restart. The boot is
// known even when the id is not; then the error says why.
func Identity(dir string, getenv func(string) string) (model.Identity, error) {
	boot, err := boot(getenv)
	if err != nil {
		return model.Identity{}, err
	}
	r, _, err := Read(dir)
	if err == nil && r.ID == "" || err != nil && damaged(err) {
		err = Update(dir, func(other *Record) {
			if other.ID == "" { // or another program was faster
				other.ID = newID()
			}
			r = *other
		})
	}
	if err != nil {
		return model.Identity{Boot: boot}, err
	}
	return model.Identity{ID: r.ID, Boot: boot}, nil
}

// Peek is [Identity] for who may not write: a host that has no id yet gets one for the moment.
func Peek(dir string, getenv func(string) string) (model.Identity, error) {
	boot, err := boot(getenv)
	if err != nil {
		return model.Identity{}, err
	}
	r, _, err := Read(dir)
	if err != nil && !damaged(err) {
		return model.Identity{Boot: boot}, err
	}
	if r.ID == "" {
		r.ID = newID()
	}
	return model.Identity{ID: r.ID, Boot: boot}, nil
}

func boot(getenv func(string) string) (string, error) {
	if given := strings.TrimSpace(getenv(BootVariable)); given != "" {
		return given, nil
	}
	file := bootFile
	if given := getenv(BootFileVariable); given != "" {
		file = given
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("which start of the host this is: %w", err)
	}
	boot := strings.TrimSpace(string(text))
	if boot == "" {
		return "", errors.New("which start of the host this is: " + file + " is empty")
	}
	return boot, nil
}

// newID is 128 random bits in hexadecimal digits.
func newID() string {
	id := make([]byte, 16)
	// crypto/rand never fails (Go 1.24).
	_, _ = rand.Read(id)
	return hex.EncodeToString(id)
}

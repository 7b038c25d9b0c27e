package launch

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"calico.internal/libcalico/etcdstore"
)

// certificatesDir is where the folders of the certificates lie in the container.
const certificatesDir = "/etc/calico/certs"

// Certificates are the files with which etcd is asked. Their folders are mounted, not the
// files: a mounted file stays the one that it was when a renewed one takes its place.
type Certificates struct {
	// folders are on the host.
	folders []string
	// files are by their variables.
	files []certificate
}

type certificate struct{ variable, onHost string }

// FindCertificates finds the folders that the container needs for the files that etcd is
// asked with.
func FindCertificates(etcd etcdstore.Config) (Certificates, error) {
	var c Certificates
	for _, file := range []certificate{
		{"ETCD_CA_CERT_FILE", etcd.CACertFile}, {"ETCD_KEY_FILE", etcd.KeyFile}, {"ETCD_CERT_FILE", etcd.CertFile},
	} {
		if file.onHost == "" {
			continue
		}
		path, err := filepath.Abs(file.onHost)
		if err != nil {
			return c, fmt.Errorf("%s: %w", file.onHost, err)
		}
		folder := filepath.Dir(path)
		path, folder = withTarget(path, folder)
		if strings.Contains(folder, ":") {
			return c, fmt.Errorf("%s cannot be mounted into a container, since docker takes the colon for its own: put the files of etcd into another folder", folder)
		}
		c.files = append(c.files, certificate{file.variable, path})
		if !slices.Contains(c.folders, folder) {
			c.folders = append(c.folders, folder)
		}
	}
	c.folders = slices.DeleteFunc(c.folders, func(f string) bool {
		return slices.ContainsFunc(c.folders, func(other string) bool { return f != other && below(f, other) })
	})
	return c, nil
}

// withTarget widens the folder of a symbolic link to one that also holds what it leads to,
// so that the link means the same in the container. Where no such folder may be mounted,
// the file is taken where it lies.
func withTarget(path, folder string) (file, mounted string) {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return path, folder // whoever reads it says what is wrong
	}
	real, err := filepath.EvalSymlinks(folder)
	if err != nil || below(target, real) {
		return path, folder
	}
	link, err := os.Readlink(path)
	both := common(folder, filepath.Dir(target))
	if err != nil || filepath.IsAbs(link) || real != folder || strings.Count(both, "/") < 2 {
		return target, filepath.Dir(target)
	}
	return path, both
}

// common is the deepest folder above both.
func common(a, b string) string {
	for !below(b, a) {
		a = filepath.Dir(a)
	}
	return a
}

// below says whether a path is a folder or lies in it.
func below(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, strings.TrimSuffix(folder, "/")+"/")
}

// inside is where a folder of the host's lies in the container.
func (c Certificates) inside(folder string) string {
	if len(c.folders) == 1 {
		return certificatesDir
	}
	return filepath.Join(certificatesDir, folder)
}

func (c Certificates) variables() []variable {
	var all []variable
	for _, file := range c.files {
		for _, folder := range c.folders {
			if below(file.onHost, folder) {
				all = append(all, variable{file.variable, c.inside(folder) + strings.TrimPrefix(file.onHost, strings.TrimSuffix(folder, "/"))})
				break
			}
		}
	}
	return all
}

func (c Certificates) volumes() []string {
	var all []string
	for _, folder := range c.folders {
		all = append(all, folder+":"+c.inside(folder)+":ro")
	}
	return all
}

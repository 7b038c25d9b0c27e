// Package resource reads template resources: the files of conf.d that say which template makes which file of which
// keys, and what is run then.
package resource

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"calico.internal/confd-templates/internal/expect"
	"github.com/BurntSushi/toml"
)

// Resource is one template resource.
type Resource struct {
	// File is the file of conf.d that it was read from.
	File string
	// Src is the template, as named in File: relative to the folder of templates.
	Src string
	// Dest is the file to make.
	Dest string
	// Prefix goes before each key; the template does not see it.
	Prefix string
	// Keys are the keys that the template may read, each with all that is below it.
	Keys []string
	// Mode is the mode of the file; 0 keeps what it has, and makes a new one 0644.
	Mode fs.FileMode
	// UID and GID own the file; -1 stands for this process's own.
	UID, GID int
	// CheckCmd is run before the file is replaced ({{.src}} is the new file), ReloadCmd after it.
	CheckCmd, ReloadCmd string
	// Expect are the rules for values of keys.
	Expect expect.Rules
}

// file is the shape of a file of conf.d.
type file struct {
	Template struct {
		Src       string   `toml:"src"`
		Dest      string   `toml:"dest"`
		Keys      []string `toml:"keys"`
		Prefix    string   `toml:"prefix"`
		Mode      string   `toml:"mode"`
		UID       *int     `toml:"uid"`
		GID       *int     `toml:"gid"`
		CheckCmd  string   `toml:"check_cmd"`
		ReloadCmd string   `toml:"reload_cmd"`
	} `toml:"template"`
	// Expect is ours; confd does not know it.
	Expect expect.Rules `toml:"expect"`
}

// Load reads all resources below confDir/conf.d. A prefix that is not empty overrides that of each resource, as
// confd's flag does. Every fault of every file is in the error; warnings name settings that nothing reads.
func Load(confDir, prefix string) (resources []Resource, warnings []string, err error) {
	files, err := find(filepath.Join(confDir, "conf.d"))
	if err != nil {
		return nil, nil, err
	}
	var faults []error
	owner := map[string]string{}
	for _, name := range files {
		r, unknown, err := read(name, filepath.Join(confDir, "templates"), prefix)
		warnings = append(warnings, unknown...)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", name, err))
			continue
		}
		if other, taken := owner[r.Dest]; taken {
			faults = append(faults, fmt.Errorf("%s: %s is made by %s too", name, r.Dest, other))
			continue
		}
		owner[r.Dest] = name
		resources = append(resources, r)
	}
	return resources, warnings, errors.Join(faults...)
}

func find(dir string) ([]string, error) {
	var files []string
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && strings.HasSuffix(name, "toml") {
			files = append(files, name)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("template resources: %w", err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("template resources: there is no *.toml in %s", dir)
	}
	slices.Sort(files)
	return files, nil
}

func read(name, templates, prefix string) (r Resource, warnings []string, err error) {
	var f file
	meta, err := toml.DecodeFile(name, &f)
	if err != nil {
		return Resource{}, nil, err
	}
	for _, key := range meta.Undecoded() {
		warnings = append(warnings, fmt.Sprintf("%s: unknown setting %s", name, key))
	}
	t := f.Template
	r = Resource{
		File: name, Src: t.Src, Dest: t.Dest, Keys: t.Keys, Prefix: t.Prefix, UID: -1, GID: -1,
		CheckCmd: t.CheckCmd, ReloadCmd: t.ReloadCmd, Expect: f.Expect,
	}
	if prefix != "" {
		r.Prefix = prefix
	}
	r.Prefix = path.Join("/", r.Prefix)
	if t.UID != nil {
		r.UID = *t.UID
	}
	if t.GID != nil {
		r.GID = *t.GID
	}
	mode, modeErr := parseMode(t.Mode)
	r.Mode = mode
	return r, warnings, errors.Join(modeErr, r.validate(templates))
}

func parseMode(s string) (fs.FileMode, error) {
	if s == "" {
		return 0, nil
	}
	mode, err := strconv.ParseUint(s, 0, 12)
	if err != nil {
		return 0, fmt.Errorf("mode %q is no octal mode such as 0644", s)
	}
	return fs.FileMode(mode), nil
}

func (r Resource) validate(templates string) error {
	var faults []error
	if r.Src == "" {
		faults = append(faults, errors.New("src is missing"))
	} else if _, err := os.Stat(filepath.Join(templates, r.Src)); err != nil {
		faults = append(faults, fmt.Errorf("template: %w", err))
	}
	switch {
	case r.Dest == "":
		faults = append(faults, errors.New("dest is missing"))
	case !filepath.IsAbs(r.Dest):
		faults = append(faults, fmt.Errorf("dest %s is not an absolute path", r.Dest))
	}
	if len(r.Keys) == 0 {
		faults = append(faults, errors.New("keys is empty"))
	}
	for _, rule := range r.Expect {
		if err := rule.Validate(); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// Paths returns the keys with their prefix: where the resource's values stand in the store.
func (r Resource) Paths() []string {
	paths := make([]string, len(r.Keys))
	for i, key := range r.Keys {
		paths[i] = path.Join(r.Prefix, key)
	}
	return paths
}

// Rules returns the rules for values with the prefix before their keys.
func (r Resource) Rules() expect.Rules {
	rules := slices.Clone(r.Expect)
	for i, rule := range rules {
		rules[i].Keys = make([]string, len(rule.Keys))
		for k, key := range rule.Keys {
			rules[i].Keys[k] = path.Join(r.Prefix, key)
		}
	}
	return rules
}

// Package render has confd's template engine make a file of the values in a store, beside the file that it is to
// replace. Checking it, putting it in place and telling its reader is package loop's work: the engine can do these
// too, but it neither retries a failed command nor ends a hung one.
package render

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"calico.internal/confd-templates/internal/resource"
	"github.com/BurntSushi/toml"
	"github.com/kelseyhightower/confd/backends"
	"github.com/kelseyhightower/confd/log"
	"github.com/kelseyhightower/confd/resource/template"
)

// Engine renders resources with confd's engine.
type Engine struct {
	config template.Config
	// dir holds a resource file for the engine by each of ours: the same, without what the engine must not do.
	dir   string
	files map[string]string
}

// Config is what New needs.
type Config struct {
	ConfDir     string
	StoreClient backends.StoreClient
	// PGPPrivateKey lets templates read encrypted values (cget and its like).
	PGPPrivateKey []byte
	// Debug has the engine log what it does.
	Debug bool
}

// New prepares the engine for the given resources. Close removes what it keeps on disk.
func New(config Config, resources []resource.Resource) (*Engine, error) {
	// The engine logs and returns each error; the loop logs what it returns.
	log.SetLevel("panic")
	if config.Debug {
		log.SetLevel("debug")
	}
	dir, err := os.MkdirTemp("", "confd-")
	if err != nil {
		return nil, fmt.Errorf("render: %w", err)
	}
	e := &Engine{
		config: template.Config{
			ConfDir:       config.ConfDir,
			TemplateDir:   filepath.Join(config.ConfDir, "templates"),
			StoreClient:   config.StoreClient,
			PGPPrivateKey: config.PGPPrivateKey,
			SyncOnly:      true,
		},
		dir:   dir,
		files: map[string]string{},
	}
	for i, r := range resources {
		if err := e.add(i, r); err != nil {
			return nil, errors.Join(err, e.Close())
		}
	}
	return e, nil
}

func (e *Engine) add(i int, r resource.Resource) error {
	name := filepath.Join(e.dir, fmt.Sprintf("%d.toml", i))
	file, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("render: %w", err)
	}
	err = toml.NewEncoder(file).Encode(map[string]any{"template": map[string]any{
		"src": r.Src, "dest": Staged(r.Dest), "keys": r.Keys, "prefix": r.Prefix, "mode": "0600",
	}})
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("render: %s: %w", name, err)
	}
	e.files[r.Dest] = name
	return nil
}

// Close removes what the engine keeps on disk.
func (e *Engine) Close() error { return os.RemoveAll(e.dir) }

// Staged is where the new version of a file is made: beside it, so that a rename can put it in place.
func Staged(dest string) string {
	return filepath.Join(filepath.Dir(dest), "."+filepath.Base(dest)+".staged")
}

// Render makes the new version of a resource's file and returns where it is. The folder is made when it is missing.
func (e *Engine) Render(r resource.Resource) (staged string, err error) {
	name, known := e.files[r.Dest]
	if !known {
		return "", fmt.Errorf("render %s: not a resource of this engine", r.Dest)
	}
	if err := os.MkdirAll(filepath.Dir(r.Dest), 0o755); err != nil {
		return "", fmt.Errorf("render: %w", err)
	}
	config := e.config
	// Given a file instead of a folder, the engine processes that one resource.
	config.ConfigDir = name
	staged = Staged(r.Dest)
	if err := template.Process(config); err != nil {
		return "", fmt.Errorf("render %s: %w", r.Src, clean(err))
	}
	return staged, nil
}

// clean takes the engine's words for a template's error apart from where its folder lies.
func clean(err error) error {
	text, ok := strings.CutPrefix(err.Error(), "template: ")
	if !ok {
		return err
	}
	return errors.New(text)
}

// Sweep removes what a killed process may have left beside a resource's file.
func Sweep(r resource.Resource) error {
	staged := Staged(r.Dest)
	leftover, err := filepath.Glob(filepath.Join(filepath.Dir(staged), "."+filepath.Base(staged)+"*"))
	if err != nil {
		return fmt.Errorf("sweep %s: %w", r.Dest, err)
	}
	var faults []error
	for _, name := range append(leftover, staged) {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

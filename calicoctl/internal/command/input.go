package command

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/manifest"
)

// stdinName is how messages call standard input.
const stdinName = "stdin"

// inputs are the files that a command reads resources from.
type inputs struct {
	names     []string
	recursive bool
	// strict takes warnings for faults.
	strict bool
}

func (in *inputs) flags(cmd *cobra.Command, verb string) {
	f := cmd.Flags()
	f.StringArrayVarP(&in.names, "filename", "f", nil,
		"`file` or directory with the resources to "+verb+"; - is standard input (may be repeated)")
	f.BoolVarP(&in.recursive, "recursive", "R", false, "read the directories within directories too")
}

// strictFlag is for commands that read whole documents, not only whose they are.
func (in *inputs) strictFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&in.strict, "strict", false, "refuse what is accepted with a warning: fields that are dropped, or have no effect")
}

// files lists the files, with those of the directories in their place.
func (in *inputs) files() ([]string, error) {
	var out []string
	for _, name := range in.names {
		info, err := os.Stat(name)
		if name == "-" || err != nil || !info.IsDir() {
			out = append(out, name) // reading says what is wrong with it
			continue
		}
		within, err := in.directory(name)
		if err != nil {
			return nil, err
		}
		out = append(out, within...)
	}
	return out, nil
}

// directory lists the manifests of a directory in the order of their names.
func (in *inputs) directory(name string) ([]string, error) {
	var out []string
	err := filepath.WalkDir(name, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != name && !in.recursive:
			return filepath.SkipDir
		case !d.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path)):
			out = append(out, path)
		}
		return nil
	})
	return out, err
}

// readObjects reads the resources of files. Either all of them are valid or the error
// names everything that is wrong.
func (env *Env) readObjects(in inputs, identify bool) ([]manifest.Object, error) {
	set, err := env.readSet(in, identify)
	if set != nil {
		env.warnOf(set)
	}
	if err != nil {
		return nil, err
	}
	return set.Objects, nil
}

// warnOf prints the warnings of a set, one for each field.
func (env *Env) warnOf(set *manifest.Set) {
	for _, w := range set.Warnings.Condensed().Sorted() {
		fmt.Fprintf(env.Stderr, "Warning: %s\n", w)
	}
}

// readSet is readObjects for who reports the warnings, which the set has also when there
// are faults.
func (env *Env) readSet(in inputs, identify bool) (*manifest.Set, error) {
	files, err := in.files()
	if err != nil {
		return nil, failedToExecute(err)
	}
	set := manifest.NewSet(env.registry, identify)
	for _, f := range files {
		data, err := env.readFile(f)
		if err != nil {
			return nil, failedToExecute(err)
		}
		if f == "-" {
			f = stdinName
		}
		set.Read(f, data)
	}
	if in.strict {
		set.Faults, set.Warnings = append(set.Faults, set.Warnings...), nil
	}
	if n := len(set.Faults); n > 0 {
		noun := "fault"
		if n > 1 {
			noun = "faults"
		}
		return &manifest.Set{Warnings: set.Warnings}, failedToExecute(fmt.Errorf("%d %s found, nothing was done\n%w", n, noun, set.Faults.Sorted()))
	}
	if len(set.Objects) == 0 {
		return nil, errors.New("No resources specified in file") //nolint:staticcheck // ST1005: the original's message
	}
	return set, nil
}

func (env *Env) readFile(name string) ([]byte, error) {
	if name == "-" {
		data, err := io.ReadAll(env.Stdin)
		if err != nil {
			return nil, fmt.Errorf("read standard input: %w", err)
		}
		return data, nil
	}
	data, err := os.ReadFile(name)
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return nil, fmt.Errorf("%s: %w", name, pe.Err)
	}
	return data, err
}

func failedToExecute(err error) error {
	return fmt.Errorf("Failed to execute command: %w", err) //nolint:staticcheck // ST1005: the original's message
}

package command

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/calicoctl/internal/manifest/tree"
)

func newValidate(env *Env) *cobra.Command {
	var files inputs
	var out outputFlag
	cmd := &cobra.Command{
		Use:   "validate -f FILE",
		Short: "Check resources of files without a datastore",
		Long:  "Check the resources of files, as all commands do before they write, without a datastore.\n\n" + manifestHelp,
		Example: `  # Check all manifests of a directory and those within it.
  calicoctl validate -R -f manifests/`,
		Args: atMost(0),
		RunE: func(_ *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			if len(files.names) == 0 {
				return usagef("--filename is missing: it names the file to check, - is standard input")
			}
			return env.validate(files, out)
		},
	}
	files.flags(cmd, "check")
	files.strictFlag(cmd)
	out.flag(cmd)
	return cmd
}

// validation is the answer of validate in JSON.
type validation struct {
	Valid     bool         `json:"valid"`
	Resources []objectName `json:"resources"`
	Faults    []faultJSON  `json:"faults"`
	Warnings  []faultJSON  `json:"warnings"`
}

type faultJSON struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Path    string `json:"path,omitempty"`
	Message string `json:"message"`
}

func faultsJSON(faults tree.Faults) []faultJSON {
	out := []faultJSON{}
	for _, f := range faults {
		out = append(out, faultJSON{f.File, f.Pos.Line, f.Pos.Column, f.Path, f.Msg})
	}
	return out
}

func (env *Env) validate(files inputs, out outputFlag) error {
	set, err := env.readSet(files, false)
	if set == nil {
		set = &manifest.Set{}
	}
	objects := set.Objects
	env.warnUnserved(objects)
	if !out.json() {
		env.warnOf(set)
	}
	var faults tree.Faults
	if !out.json() || err != nil && !errors.As(err, &faults) {
		if err == nil {
			fmt.Fprintf(env.Stdout, "Successfully validated %d %sresource(s)\n", len(objects), kindNote(objects))
		}
		return err
	}
	answer := validation{Valid: err == nil, Resources: []objectName{}, Faults: faultsJSON(faults), Warnings: faultsJSON(set.Warnings)}
	for _, o := range objects {
		answer.Resources = append(answer.Resources, objectNameOf(o))
	}
	if err := writeJSON(env.Stdout, answer); err != nil {
		return err
	}
	if !answer.Valid {
		return &statusError{code: exitFailed}
	}
	return nil
}

package command

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/calicoctl/internal/resource"
	"calico.internal/libcalico/model"
)

// The exit statuses of diff.
const (
	exitDiffers    = 1
	exitDiffFailed = 2
)

func newDiff(env *Env) *cobra.Command {
	var files inputs
	var out outputFlag
	cmd := &cobra.Command{
		Use:   "diff -f FILE",
		Short: "Show what apply would change",
		Long: "Compare the resources of files with those in the datastore, and show what \"apply\" would\n" +
			"change as a unified diff. Nothing is written, and passwords are not shown. The exit status\n" +
			"is 0 when nothing would change, 1 when something would, and 2 when that could not be\n" +
			"found out.\n\n" + manifestHelp,
		Example: `  # See what a file would change.
  calicoctl diff -f policy.yaml

  # Apply a file if it would change anything, but not if that could not be found out.
  rc=0; calicoctl diff -f policy.yaml || rc=$?
  case $rc in 0) ;; 1) calicoctl apply -f policy.yaml ;; *) exit $rc ;; esac`,
		Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			if len(files.names) == 0 {
				return usagef("--filename is missing: it names the file to compare, - is standard input")
			}
			return env.diffStatus(env.diff(cmd, files, out))
		},
	}
	files.flags(cmd, "compare")
	out.flag(cmd)
	return cmd
}

// diffStatus makes the exit status of an answer.
func (env *Env) diffStatus(differs bool, err error) error {
	switch {
	case err != nil:
		fmt.Fprintln(env.Stderr, err)
		return &statusError{code: exitDiffFailed}
	case differs:
		return &statusError{code: exitDiffers}
	}
	return nil
}

// difference is one object in the answer of diff.
type difference struct {
	objectName

	Result resource.Did `json:"result"`
	Old    any          `json:"old,omitempty"`
	New    any          `json:"new,omitempty"`
	// Note says what differs and is not shown.
	Note string `json:"note,omitempty"`
}

func (env *Env) diff(cmd *cobra.Command, files inputs, out outputFlag) (differs bool, err error) {
	objects, err := env.readObjects(files, false)
	if err != nil {
		return false, err
	}
	var changes []resource.Change
	err = env.withStore(cmd, func(ctx context.Context, s *resource.Store) error {
		changes, err = s.Plan(ctx, resource.Apply, objects)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("Failed to compare %sresources: %w", kindNote(objects), err) //nolint:staticcheck // ST1005: like the original's messages
	}
	answer := []difference{}
	for _, c := range changes {
		d := difference{objectName: objectNameOf(c.Object), Result: c.Did}
		if c.Did != resource.Unchanged {
			differs = true
			d.Old, d.New = documents(c)
			d.Note = unseen(c, d.Old, d.New)
		}
		answer = append(answer, d)
	}
	if out.json() {
		return differs, writeJSON(env.Stdout, answer)
	}
	return differs, env.printDiff(changes, answer)
}

// documents is a change as the object's dialect writes it.
func documents(c resource.Change) (before, after any) {
	if c.Old != nil {
		before, _ = c.Kind.Encode(c.Key, c.Old)
	}
	after, _ = c.Kind.Encode(c.Key, c.Value)
	return before, after
}

func (env *Env) printDiff(changes []resource.Change, answer []difference) error {
	w := bufio.NewWriter(env.Stdout)
	for i, d := range answer {
		if d.New == nil {
			continue
		}
		before, err1 := yamlOf(d.Old)
		after, err2 := yamlOf(d.New)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		c := changes[i]
		was := c.Shown().String() + " as stored"
		if d.Old == nil {
			was = "/dev/null"
		}
		fmt.Fprintf(w, "# %s would be %s\n", c.Shown(), c.Did)
		text := diff.Diff(was, before, fmt.Sprintf("%s as in %s", c.Shown(), c.File), after)
		if d.Note != "" {
			fmt.Fprintf(w, "# %s\n", d.Note)
		}
		// The first line of what Diff writes names the two sides once more.
		if _, rest, ok := bytes.Cut(text, []byte("\n")); ok && bytes.HasPrefix(text, []byte("diff ")) {
			text = rest
		}
		if _, err := w.Write(text); err != nil {
			return err
		}
	}
	return w.Flush()
}

// unseen says what differs and is in neither of the documents of a change.
func unseen(c resource.Change, before, after any) string {
	if otherSecret(c) {
		return c.Kind.SecretField + " differs, and is not shown"
	}
	was, err1 := json.Marshal(before)
	is, err2 := json.Marshal(after)
	if err1 == nil && err2 == nil && bytes.Equal(was, is) {
		return "it differs in what apiVersion " + c.Kind.APIVersion + " does not show"
	}
	return ""
}

// otherSecret reports whether a change gives the object another secret.
func otherSecret(c resource.Change) bool {
	if c.Old == nil || c.Kind.Secret == nil {
		return false
	}
	was, is := c.Kind.Secret(c.Old), c.Kind.Secret(c.Value)
	return was != nil && is != nil && *was != *is
}

func yamlOf(doc any) ([]byte, error) {
	if doc == nil {
		return nil, nil
	}
	var b bytes.Buffer
	err := manifest.WriteYAML(&b, []any{doc})
	return b.Bytes(), err
}

// sameResource is the update of a resource that leaves the old value alone.
func sameResource(k model.Key, r model.Resource) (model.Resource, error) {
	parts, err := model.Encode(k, r)
	if err != nil {
		return nil, err
	}
	return model.Decode(k, parts)
}

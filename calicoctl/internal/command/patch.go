package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/calicoctl/internal/resource"
	"calico.internal/libcalico/model"
)

// The kinds of patch.
const (
	patchMerge = "merge"
	patchJSON  = "json"
)

var patchVerb = verb{"patch", "patched"}

func newPatch(env *Env) *cobra.Command {
	p := patching{env: env}
	cmd := &cobra.Command{
		Use:   "patch KIND NAME (-p PATCH | --patch-file FILE)",
		Short: "Change parts of a resource",
		Long: `Change parts of a resource and leave the rest as it is. A patch is written in JSON. With
--type=merge (RFC 7386) it looks like the resource: what it has replaces what is there,
null removes it, lists are replaced as a whole. With --type=json (RFC 6902) it is a list
of operations with paths: add, remove, replace, move, copy and test.

The result is checked as if it came from a file. If somebody else changes the resource
at the same time, the patch is made again on top of that.`,
		Example: `  # Give a policy another order.
  calicoctl patch policy backend -p '{"spec":{"order":20}}'

  # Add a port to the first ingress rule.
  calicoctl patch policy backend --type=json \
    -p '[{"op":"add","path":"/spec/ingress/0/destination/ports/-","value":443}]'`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: env.completeResources(&p.ids),
		RunE:              p.run,
	}
	f := cmd.Flags()
	f.StringVarP(&p.patch, "patch", "p", "", "the `patch`, in JSON")
	f.StringVar(&p.file, "patch-file", "", "`file` with the patch; - is standard input")
	f.StringVarP(&p.kind, "type", "t", patchMerge, "`kind` of patch: merge (RFC 7386) or json (RFC 6902)")
	mustComplete(cmd, "type", []string{patchMerge, patchJSON})
	p.ids.flags(cmd)
	p.env.dialectFlag(cmd)
	p.how.flags(cmd)
	p.force.flag(cmd, patchVerb)
	return cmd
}

type patching struct {
	env               *Env
	ids               identifiers
	how               changing
	force             forcing
	patch, file, kind string
	// warned is set when the warnings about the result were given.
	warned bool
}

func (p *patching) run(cmd *cobra.Command, args []string) error {
	if err := p.how.check(); err != nil {
		return err
	}
	objects, err := p.env.named(p.ids, args, "patch")
	switch {
	case err != nil:
		return err
	case len(objects) > 1:
		return usagef("unexpected argument %q: one resource is patched at a time", args[2])
	case (p.patch == "") == (p.file == ""):
		return usagef("give the patch by either --patch or --patch-file")
	case p.how.dryRun == dryRunClient:
		return usagef("a patch needs the resource it is for: use --dry-run=server")
	}
	edit, err := p.parse()
	if err != nil {
		return err
	}
	return p.env.modify(cmd, patchVerb, p.how, objects[0], &p.force, func(o manifest.Object, old model.Resource) (manifest.Object, error) {
		return p.patched(o, old, edit)
	})
}

// editor changes a JSON document.
type editor func(doc []byte) ([]byte, error)

func (p *patching) parse() (editor, error) {
	text := []byte(p.patch)
	if p.file != "" {
		var err error
		if text, err = p.env.readFile(p.file); err != nil {
			return nil, failedToExecute(err)
		}
	}
	switch p.kind {
	case patchMerge:
		var whole map[string]any
		if err := json.Unmarshal(text, &whole); err != nil {
			return nil, usagef("the patch is not a JSON object, as --type=merge needs: %v", err)
		}
		return func(doc []byte) ([]byte, error) { return jsonpatch.MergePatch(doc, text) }, nil
	case patchJSON:
		patch, err := jsonpatch.DecodePatch(text)
		if err != nil {
			return nil, usagef("the patch is not a list of JSON patch operations, as --type=json needs: %v", err)
		}
		return patch.Apply, nil
	}
	return nil, usagef("unknown kind of patch %q: expected merge or json", p.kind)
}

// patched is what a patch makes of a resource. A revision in it is the one that the patch
// was made for.
func (p *patching) patched(o manifest.Object, old model.Resource, edit editor) (manifest.Object, error) {
	doc, _ := o.Kind.Encode(o.Key, old)
	var text bytes.Buffer
	if err := writeJSON(&text, doc); err != nil {
		return o, err
	}
	changed, err := edit(text.Bytes())
	if err != nil {
		return o, err
	}
	set := manifest.NewSet(p.env.registry, false)
	set.Read("patch.json", changed)
	switch {
	case len(set.Faults) > 0:
		return o, fmt.Errorf("the result of the patch is not valid:\n%w", withoutPlace(set.Faults))
	case len(set.Objects) != 1:
		return o, errors.New("the result of the patch is not one resource")
	case set.Objects[0].Key != o.Key:
		return o, fmt.Errorf("a patch cannot make %s out of %s: what identifies a resource stays", set.Objects[0].Key, o.Key)
	}
	if !p.warned { // and not again when the patch is made again
		set.Warnings, p.warned = withoutPlace(set.Warnings), true
		p.env.warnOf(set)
	}
	o.Value, o.Revision, o.IfNew = set.Objects[0].Value, set.Objects[0].Revision, withoutPlace(set.Objects[0].IfNew)
	return o, nil
}

// withoutPlace is faults of a document that the user never saw.
func withoutPlace(faults tree.Faults) tree.Faults {
	out := make(tree.Faults, len(faults))
	for i, f := range faults.Sorted() {
		placeless := *f
		placeless.File, placeless.Pos = "patch", tree.Pos{}
		out[i] = &placeless
	}
	return out
}

// modify changes one resource in place and reports what became of it. force is nil when
// the edit keeps what the object's dialect cannot say.
func (env *Env) modify(cmd *cobra.Command, v verb, how changing, o manifest.Object, force *forcing,
	edit func(manifest.Object, model.Resource) (manifest.Object, error),
) error {
	return env.withStore(cmd, func(ctx context.Context, s *resource.Store) error {
		if force != nil {
			force.on(s)
		}
		changed, err := s.Modify(ctx, o, force != nil, how.dry(), edit)
		var done []resource.Outcome
		if err == nil {
			done = []resource.Outcome{changed.Outcome}
		}
		return env.reportChange(v, how, []manifest.Object{o}, done, err)
	})
}

package command

import "calico.internal/calicoctl/internal/manifest"

// verbs are the commands about resources that the original did not have.
func verbs() []Builder {
	return []Builder{newDiff, newPatch, newLabel, newValidate, newWait, newDatastore, newImport}
}

// named finds the objects that a command line names by KIND and NAMEs.
func (env *Env) named(ids identifiers, args []string, purpose string) ([]manifest.Object, error) {
	if len(args) == 0 {
		return nil, usagef("name what to %s by KIND and NAME", purpose)
	}
	d := deletion{env: env, ids: ids}
	return d.objects(args)
}

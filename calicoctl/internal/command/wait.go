package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/resource"
	"calico.internal/libcalico/model"
)

func newWait(env *Env) *cobra.Command {
	w := waiting{env: env}
	cmd := &cobra.Command{
		Use:   "wait (KIND NAME... | -f FILE) --for=CONDITION",
		Short: "Wait until resources are as they should be",
		Long: `Wait until all of the named resources are as they should be, or the time is over, which
is an error. The condition is one of

  create            the resource exists
  delete            the resource does not exist
  FIELD=VALUE       the resource has the value, as in spec.order=20 or metadata.labels[role]=db;
                    numbers are compared as numbers, and a field left out is false, 0 or empty
  FIELD             the resource has the field
  jsonpath={.FIELD}=VALUE, jsonpath={.FIELD}   the same, as kubectl writes it
  condition=ready   a node: all its programs report that they are ready
  condition=up      a workload endpoint: felix reports that its policy is in force`,
		Example: `  # Wait until a node is up.
  calicoctl wait node node01 --for=condition=ready --timeout=2m

  # Wait until a policy is gone.
  calicoctl wait policy backend --for=delete

  # Wait until a policy has another order.
  calicoctl wait policy backend --for=spec.order=20`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: env.completeResources(&w.ids),
		RunE:              w.run,
	}
	w.files.flags(cmd, "wait for")
	w.ids.flags(cmd)
	w.env.dialectFlag(cmd)
	w.out.flag(cmd)
	cmd.Flags().StringVar(&w.condition, "for", "", "the `condition` to wait for")
	cmd.Flags().DurationVar(&w.timeout, "timeout", 30*time.Second, "how `long` to wait; 0 looks once")
	mustComplete(cmd, "for", []string{"create", "delete", "condition=ready", "condition=up"})
	return cmd
}

type waiting struct {
	env       *Env
	files     inputs
	ids       identifiers
	out       outputFlag
	condition string
	timeout   time.Duration
}

// check says whether an object is as it should be, and if not, how it is.
type check func(*resource.Seen, manifest.Object) (ok bool, state string)

func (w *waiting) run(cmd *cobra.Command, args []string) error {
	if err := w.out.check(); err != nil {
		return err
	}
	switch {
	case w.condition == "":
		return usagef("--for is missing: it names the condition to wait for")
	case w.timeout < 0:
		return usagef("--timeout cannot be negative")
	}
	d := deletion{env: w.env, files: w.files, ids: w.ids}
	if len(args)+len(w.files.names) == 0 {
		return usagef("name what to wait for by --filename, or by KIND and NAME")
	}
	objects, err := d.objects(args)
	if err != nil {
		return err
	}
	holds, reports, err := w.parse(objects)
	if err != nil {
		return err
	}
	return w.env.withStore(cmd, func(ctx context.Context, s *resource.Store) error {
		return w.await(ctx, s, objects, holds, reports)
	})
}

// met is the answer of wait in JSON.
type met struct {
	objectName

	For   string `json:"for"`
	Met   bool   `json:"met"`
	State string `json:"state,omitempty"`
}

func (w *waiting) await(ctx context.Context, s *resource.Store, objects []manifest.Object, holds check, reports []model.Kind) error {
	if w.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, w.timeout)
		defer cancel()
	}
	answer := make([]met, len(objects))
	for i, o := range objects {
		answer[i] = met{objectName: objectNameOf(o), For: w.condition}
	}
	err := s.Await(ctx, objects, reports, func(view *resource.Seen) (bool, error) {
		all := true
		for i, o := range objects {
			if answer[i].Met {
				continue
			}
			answer[i].Met, answer[i].State = holds(view, o)
			all = all && answer[i].Met
			if answer[i].Met && !w.out.json() {
				fmt.Fprintf(w.env.Stdout, "%s: %s, as waited for\n", o.Key, answer[i].State)
			}
		}
		return all || w.timeout == 0, nil
	})
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("wait: %w", err)
	}
	if w.out.json() {
		if err := writeJSON(w.env.Stdout, answer); err != nil {
			return err
		}
	}
	return w.verdict(objects, answer)
}

// verdict is an error about what was waited for in vain.
func (w *waiting) verdict(objects []manifest.Object, answer []met) error {
	var faults []error
	for i, a := range answer {
		if !a.Met {
			state := a.State
			if state == "" {
				state = "the datastore did not answer"
			}
			faults = append(faults, fmt.Errorf("%s: waited %s for %s, but %s", objects[i].Key, w.timeout, w.condition, state))
		}
	}
	return errors.Join(faults...)
}

// parse reads the condition, and says reports of which kind must be looked at for it.
func (w *waiting) parse(objects []manifest.Object) (check, []model.Kind, error) {
	of := func(kind model.Kind) error {
		for _, o := range objects {
			if o.Key.Kind() != kind {
				return usagef("--for=%s is for resources of kind %s, which %s is not", w.condition, kind, o.Key)
			}
		}
		return nil
	}
	switch {
	case w.condition == "create":
		return exists(true), nil, nil
	case w.condition == "delete":
		return exists(false), nil, nil
	case strings.EqualFold(w.condition, "condition=ready"):
		return nodeReady, []model.Kind{model.KindLiveness}, of(model.KindNode)
	case strings.EqualFold(w.condition, "condition=up"):
		return endpointUp, []model.Kind{model.KindEndpointStatus}, of(model.KindWorkloadEndpoint)
	case strings.HasPrefix(w.condition, "condition="):
		return nil, nil, usagef("unknown condition %q: expected ready or up", strings.TrimPrefix(w.condition, "condition="))
	}
	path, value, hasValue, err := w.field()
	if err != nil {
		return nil, nil, err
	}
	steps, err := parsePath(path)
	if err != nil {
		return nil, nil, err
	}
	return hasField(path, steps, value, hasValue), nil, nil
}

// field reads a condition about a field, which may be written as kubectl has it.
func (w *waiting) field() (path, value string, hasValue bool, err error) {
	rest, isJSONPath := strings.CutPrefix(w.condition, "jsonpath=")
	if !isJSONPath {
		path, value, hasValue = strings.Cut(w.condition, "=")
		return path, value, hasValue, nil
	}
	inside, after, closed := strings.Cut(strings.TrimPrefix(rest, "{"), "}")
	if !strings.HasPrefix(rest, "{") || !closed || after != "" && !strings.HasPrefix(after, "=") {
		return "", "", false, usagef("%q is not a condition such as jsonpath={.spec.order}=20", w.condition)
	}
	return inside, strings.TrimPrefix(after, "="), after != "", nil
}

func exists(want bool) check {
	return func(view *resource.Seen, o manifest.Object) (bool, string) {
		state := "it does not exist"
		_, _, found := view.Find(o)
		if found {
			state = "it exists"
		}
		return found == want, state
	}
}

func nodeReady(view *resource.Seen, o manifest.Object) (bool, string) {
	_, r, there := view.Find(o)
	programs := livenessOf(view, objectNameOf(o).Name)
	var wanted []string
	if node, ok := r.(*model.Node); ok {
		wanted = node.Programs
	}
	gone := unreported(wanted, programs)
	var not []string
	for _, program := range slices.Sorted(maps.Keys(programs)) {
		if !programs[program].Ready {
			not = append(not, program)
		}
	}
	switch {
	case !there:
		return false, "it does not exist"
	case len(gone) == 1:
		return false, gone[0] + " does not report"
	case len(gone) > 1:
		return false, strings.Join(gone, ", ") + " do not report"
	case len(not) > 0:
		return false, "not ready: " + strings.Join(not, ", ")
	}
	return true, "it is ready"
}

// nodePrograms are the programs that a node may run.
var nodePrograms = []string{"felix", "bgpd", "confd", "libnetwork", "calico-node"}

// livenessOf is what the programs of a node report.
func livenessOf(view *resource.Seen, node string) map[string]*model.Liveness {
	out := map[string]*model.Liveness{}
	for _, program := range nodePrograms {
		r, _ := view.Get(model.LivenessKey{Node: node, Program: program})
		if l, ok := r.(*model.Liveness); ok {
			out[program] = l
		}
	}
	return out
}

func endpointUp(view *resource.Seen, o manifest.Object) (bool, string) {
	key, _, there := view.Find(o)
	k, _ := key.(model.WorkloadEndpointKey)
	r, _ := view.Get(model.EndpointStatusKey(k))
	status, ok := r.(*model.EndpointStatus)
	switch {
	case !there:
		return false, "it does not exist"
	case !ok:
		return false, "felix does not report it"
	}
	return status.Status == model.EndpointUp, "it is " + status.Status
}

func hasField(path string, steps []string, value string, hasValue bool) check {
	return func(view *resource.Seen, o manifest.Object) (bool, string) {
		k, r, ok := view.Find(o)
		if !ok || r == nil {
			return false, "it does not exist"
		}
		got, ok := fieldOf(o.Kind, k, r, steps)
		if !ok && hasValue {
			got, ok = leftOut(o.Kind.Document, steps)
		}
		switch {
		case !ok:
			return false, "it has no " + path
		case !hasValue:
			return true, "it has " + path
		}
		return sameValue(got, value), fmt.Sprintf("%s is %s", path, got)
	}
}

// sameValue compares values by what they are: 1.0 is 1.
func sameValue(a, b string) bool {
	x, err1 := strconv.ParseFloat(a, 64)
	y, err2 := strconv.ParseFloat(b, 64)
	return a == b || err1 == nil && err2 == nil && x == y
}

// leftOut is the value of a field that documents of a type leave out while it has that: false,
// 0 or an empty text. ok is false for others, of which nobody here knows what holds instead.
func leftOut(t reflect.Type, steps []string) (value string, ok bool) {
	for _, step := range steps {
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct {
			return "", false
		}
		field, found := fieldNamed(t, step)
		if !found {
			return "", false
		}
		t = field.Type
	}
	switch t.Kind() {
	case reflect.Bool, reflect.Int, reflect.Float64, reflect.String:
		return fmt.Sprint(reflect.Zero(t).Interface()), true
	default:
		return "", false
	}
}

// fieldNamed is the field of a struct that has a name in documents.
func fieldNamed(t reflect.Type, name string) (reflect.StructField, bool) {
	for field := range t.Fields() {
		if called, _, _ := strings.Cut(field.Tag.Get("json"), ","); called == name {
			return field, true
		}
	}
	return reflect.StructField{}, false
}

// parsePath splits a path such as spec.ingress[0].action or metadata.labels[a.b].
func parsePath(path string) ([]string, error) {
	var steps []string
	for rest := strings.TrimPrefix(path, "."); rest != ""; {
		var step string
		if inside, ok := strings.CutPrefix(rest, "["); ok {
			step, rest, ok = strings.Cut(inside, "]")
			if !ok {
				return nil, usagef("%q is not the path of a field: a bracket is not closed", path)
			}
		} else {
			end := strings.IndexAny(rest, ".[")
			if end < 0 {
				end = len(rest)
			}
			step, rest = rest[:end], rest[end:]
		}
		if step == "" {
			return nil, usagef("%q is not the path of a field, such as spec.order", path)
		}
		steps, rest = append(steps, step), strings.TrimPrefix(rest, ".")
	}
	if len(steps) == 0 {
		return nil, usagef("%q is not the path of a field, such as spec.order", path)
	}
	return steps, nil
}

// fieldOf is a field of a resource's document as text.
func fieldOf(kind *dialect.Kind, k model.Key, r model.Resource, steps []string) (string, bool) {
	doc, _ := kind.Encode(k, r)
	text, err := json.Marshal(doc)
	if err != nil {
		return "", false
	}
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return "", false
	}
	for _, step := range steps {
		var ok bool
		switch at := v.(type) {
		case map[string]any:
			v, ok = at[step]
		case []any:
			var i int
			if i, err = strconv.Atoi(step); err == nil && i >= 0 && i < len(at) {
				v, ok = at[i], true
			}
		}
		if !ok {
			return "", false
		}
	}
	if s, ok := v.(string); ok {
		return s, true
	}
	text, err = json.Marshal(v)
	return string(text), err == nil
}

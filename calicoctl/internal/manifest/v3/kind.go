package v3

import (
	"reflect"
	"strconv"
	"strings"
	"time"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/scalar"
	"calico.internal/calicoctl/internal/manifest/settings"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// APIVersion is what a document of this dialect has as its apiVersion.
const APIVersion = "projectcalico.org/v3"

// TypeMetadata names the type of a document.
type TypeMetadata struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

// Resource is a document; S is its specification.
type Resource[S any] struct {
	TypeMetadata

	Metadata ObjectMeta        `json:"metadata"`
	Spec     S                 `json:"spec"`
	Status   scalar.ServerKept `json:"status,omitzero"`
}

// SetRevision shows the revision of the resource in the document.
func (d *Resource[S]) SetRevision(revision int64) {
	if revision != 0 {
		d.Metadata.ResourceVersion = strconv.FormatInt(revision, 10)
	}
}

// List is documents of one kind, as yaml, json and templates get them.
type List struct {
	TypeMetadata

	Metadata ListMeta `json:"metadata"`
	Items    []any    `json:"items"`
}

// ListMeta is the metadata of a list.
type ListMeta struct {
	ResourceVersion string `json:"resourceVersion,omitempty"`
}

// conversion is what makes a [dialect.Kind] of a specification S and the model's
// resource R. The functions may be nil unless said otherwise.
type conversion[S any, R model.Resource] struct {
	kind       model.Kind // not empty
	name       string     // not empty
	aliases    []string
	namespaced bool
	// readOnly says why resources of the kind cannot be written.
	readOnly string
	// only is the one name that resources of the kind can have.
	only string
	// named says that any name is good to begin with: others make it.
	anyName bool
	// decode makes key and value but for what all resources have in their metadata.
	decode func(*tree.Report, ObjectMeta, S) (model.Key, R)
	// encode makes the specification.
	encode func(model.Key, R) (s S, lost []string)
	// nameOf is the resource's name where metadata does not hold one; not nil.
	nameOf func(k model.Key, v R) string
	// keyOf is the inverse of nameOf where that looks only at the key.
	keyOf func(name string) model.Key
	owns  func(model.Key) bool
	// settle takes away what is stored and must not stand beside what the document says.
	settle func(R)
	// secret is where the specification and the resource have their secret.
	secret func(s *S, v R) (shown, stored *string)
	// deleting is since when the resource is being deleted.
	deleting func(R) time.Time
	// labels is where the model has the labels of the document's metadata.
	labels func(R) *map[string]string
	// places are the model's paths with those of the dialect.
	places  map[string]string
	compare func(a, b *Resource[S]) int
	columns []dialect.Column
	short   []string
	wide    []string
}

func (c conversion[S, R]) dialectKind() dialect.Kind {
	k := dialect.Kind{
		APIVersion: APIVersion, Name: c.name, Model: c.kind, Aliases: c.aliases,
		Columns: c.columns, Short: c.short, Wide: c.wide,
		Namespaced: c.namespaced, ReadOnly: c.readOnly, Owns: c.owns,
		Decode: c.document, Encode: c.write, Rules: asWritten, NameOf: c.names,
		Revision: revisionOf, Document: reflect.TypeFor[Resource[S]](),
		IdentifyName: func(r *tree.Report) (string, string) { return identify(r, c.namespaced) },
		List:         func(docs []any) any { return c.list(docs, c.name+"List", 0) },
		Wrap: func(docs []any, all bool, revision int64) any {
			if !all {
				return c.list(docs, "List", revision)
			}
			return c.list(docs, c.name+"List", revision)
		},
	}
	c.withSecret(&k)
	if c.keyOf != nil {
		k.KeyOf = c.key
	}
	if c.settle != nil {
		k.Settle = func(v model.Resource) {
			if value, ok := v.(R); ok {
				c.settle(value)
			}
		}
	}
	if c.compare != nil {
		k.Compare = func(a, b any) int { return c.compare(a.(*Resource[S]), b.(*Resource[S])) }
	}
	return k
}

func (c conversion[S, R]) list(docs []any, kind string, revision int64) List {
	list := List{TypeMetadata: TypeMetadata{APIVersion, kind}, Items: docs}
	if docs == nil {
		list.Items = []any{}
	}
	if revision != 0 {
		list.Metadata.ResourceVersion = strconv.FormatInt(revision, 10)
	}
	return list
}

// names is the namespace and name of a resource.
func (c conversion[S, R]) names(k model.Key, v model.Resource) (namespace, name string) {
	if c.namespaced {
		namespace = model.DefaultNamespace
	}
	if meta := model.MetadataOf(v); meta != nil && meta.V3Name != "" {
		return namespace, meta.V3Name
	}
	value, _ := v.(R)
	return namespace, c.nameOf(k, value)
}

// key is the key of the resource that names gives a name.
func (c conversion[S, R]) key(namespace, name string) (model.Key, bool) {
	k := c.keyOf(name)
	if k == nil || c.owns != nil && !c.owns(k) {
		return nil, false
	}
	atNamespace, called := c.names(k, nil)
	return k, atNamespace == namespace && called == name
}

func (c conversion[S, R]) document(r *tree.Report) (model.Key, model.Resource) {
	var d Resource[S]
	tree.Bind(r, &d)
	c.checkMeta(r, &d.Metadata)
	key, value := c.decode(r, d.Metadata, d.Spec)
	if meta := model.MetadataOf(value); meta != nil {
		name := meta.V3Name
		*meta = d.Metadata.meta()
		meta.V3Inert = inertOf(&d.Spec)
		if name != c.nameOf(key, value) {
			meta.V3Name = name
		}
		if c.labels != nil {
			*c.labels(value), meta.V3Labels = meta.V3Labels, nil
		}
	}
	if _, ok := model.Resource(value).(*settings.Settings); !ok { // the parts have been checked
		dialect.Validate(r, key, value, c.place)
	}
	return key, value
}

func (c conversion[S, R]) write(k model.Key, v model.Resource) (any, []string) {
	value, ok := v.(R)
	if !ok {
		return nil, nil
	}
	d := &Resource[S]{TypeMetadata: TypeMetadata{APIVersion, c.name}}
	if meta := model.MetadataOf(v); meta != nil {
		d.Metadata.show(*meta)
	}
	if c.deleting != nil {
		d.Metadata.Deletion.Time = Time{c.deleting(value)}
	}
	d.Metadata.Namespace, d.Metadata.Name = c.names(k, v)
	if c.labels != nil {
		d.Metadata.Labels = *c.labels(value)
	}
	var lost []string
	d.Spec, lost = c.encode(k, value)
	if meta := model.MetadataOf(v); meta != nil {
		showInert(&d.Spec, meta.V3Inert)
	}
	if c.secret != nil {
		if shown, stored := c.secret(&d.Spec, value); *stored != "" {
			*shown = scalar.Hidden
		}
	}
	return d, lost
}

// withSecret adds to a kind what it needs to know of its secret.
func (c conversion[S, R]) withSecret(k *dialect.Kind) {
	if c.secret == nil {
		return
	}
	k.Secret = func(v model.Resource) *string {
		value, ok := v.(R)
		if !ok {
			return nil
		}
		_, stored := c.secret(new(S), value)
		return stored
	}
	k.Reveal = func(doc any, v model.Resource) {
		d, ok1 := doc.(*Resource[S])
		value, ok2 := v.(R)
		if ok1 && ok2 {
			shown, stored := c.secret(&d.Spec, value)
			*shown = *stored
		}
	}
	k.SecretField = "spec.password"
}

// place is where the dialect has the value that the model complains about.
func (c conversion[S, R]) place(r *tree.Report, f *model.FieldError) string {
	path := f.Field
	for _, list := range []string{"spec.expectedIPs", "spec.ipNetworks"} {
		if strings.HasPrefix(path, list+"[") {
			return dialect.ByValue(r, list, f)
		}
	}
	if to, ok := c.places[path]; ok {
		return to
	}
	for from, to := range c.places {
		if rest, ok := strings.CutPrefix(path, from); ok && (rest[0] == '.' || rest[0] == '[') {
			return to + rest
		}
	}
	return path
}

// column makes a column from a function of a kind's document.
func column[S any](heading string, show func(*Resource[S]) string) dialect.Column {
	return dialect.Column{Heading: heading, Show: func(doc any, _ dialect.Cluster) string {
		return show(doc.(*Resource[S]))
	}}
}

// nameColumn is the column that every kind has.
func nameColumn[S any]() dialect.Column {
	return column("NAME", func(d *Resource[S]) string { return d.Metadata.Name })
}

// need reports a field of the specification that is missing.
func need(r *tree.Report, field, value string) {
	path := "spec." + field
	if value == "" && !r.Doubts(path) {
		r.Add(path, "missing")
	}
}

// joined is a list as a table cell.
func joined[T interface{ String() string }](items []T) string {
	words := make([]string, len(items))
	for i, it := range items {
		words[i] = it.String()
	}
	return strings.Join(words, ",")
}

// deref is the value of a pointer, or the given one.
func deref[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// nonZero is a pointer to a value, or nil for the zero value.
func nonZero[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// Kinds lists the kinds of the dialect.
func Kinds() []dialect.Kind {
	return []dialect.Kind{
		bgpConfigurationKind(), bgpFilterKind(), bgpPeerKind(), blockAffinityKind(),
		clusterInformationKind(), dockerNetworkKind(), felixConfigurationKind(),
		globalNetworkPolicyKind(), globalNetworkSetKind(), hostEndpointKind(),
		ipamConfigurationKind(), ipPoolKind(), ipReservationKind(),
		networkPolicyKind(), networkSetKind(), nodeKind(), profileKind(), tierKind(), workloadEndpointKind(),
	}
}

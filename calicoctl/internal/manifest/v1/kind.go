package v1

import (
	"maps"
	"reflect"
	"slices"
	"strings"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// APIVersion is what a document of this dialect has as its apiVersion.
const APIVersion = "v1"

// TypeMetadata names the type of a document.
type TypeMetadata struct {
	Kind       string `json:"kind"`
	APIVersion string `json:"apiVersion"`
}

// Resource is a document; M and S are its metadata and specification.
type Resource[M, S any] struct {
	TypeMetadata

	Metadata M `json:"metadata"`
	Spec     S `json:"spec"`
}

// List is documents of one kind, as templates get them.
type List[M, S any] struct {
	TypeMetadata

	Items []Resource[M, S]
}

// conversion is what makes a [dialect.Kind] of metadata M, specification S and the
// model's resource R.
type conversion[M, S any, R model.Resource] struct {
	kind    model.Kind
	aliases []string
	key     func(*tree.Report, M) model.Key
	decode  func(*tree.Report, M, S) R
	encode  func(model.Key, R) (m M, s S, lost []string)
	// settle takes away what is stored and must not stand beside what the document says.
	settle  func(R)
	owns    func(model.Key) bool
	columns []dialect.Column
	short   []string
	wide    []string
}

func (c conversion[M, S, R]) dialectKind() dialect.Kind {
	k := dialect.Kind{
		APIVersion: APIVersion, Name: string(c.kind), Model: c.kind, Aliases: c.aliases,
		Columns: c.columns, Short: c.short, Wide: c.wide,
		Document: reflect.TypeFor[Resource[M, S]](),
		Identify: c.identify,
		Decode:   c.document,
		Encode:   c.write,
		Rules:    asWritten,
		Owns:     c.owns,
		List: func(docs []any) any {
			list := List[M, S]{TypeMetadata: TypeMetadata{Kind: string(c.kind) + "List", APIVersion: APIVersion}}
			for _, d := range docs {
				list.Items = append(list.Items, *d.(*Resource[M, S]))
			}
			return list
		},
	}
	if c.settle != nil {
		k.Settle = func(v model.Resource) {
			if value, ok := v.(R); ok {
				c.settle(value)
			}
		}
	}
	return k
}

// identify binds only the metadata; a fault elsewhere in the document is no matter.
func (c conversion[M, S, R]) identify(r *tree.Report) model.Key {
	var m M
	meta := r.Root().Field("metadata")
	if meta == nil || meta.Kind != tree.Map {
		r.Add("metadata", "missing")
		return nil
	}
	tree.BindAt(r, "metadata", &m)
	return c.key(r, m)
}

func (c conversion[M, S, R]) document(r *tree.Report) (model.Key, model.Resource) {
	var d Resource[M, S]
	tree.Bind(r, &d)
	key := c.key(r, d.Metadata)
	value := c.decode(r, d.Metadata, d.Spec)
	dialect.Validate(r, key, value, place)
	return key, value
}

func (c conversion[M, S, R]) write(k model.Key, v model.Resource) (any, []string) {
	value, ok := v.(R)
	if !ok {
		return nil, nil
	}
	m, s, lost := c.encode(k, value)
	lost = append(lost, c.hidden(model.MetadataOf(v))...)
	return &Resource[M, S]{
		TypeMetadata: TypeMetadata{Kind: string(c.kind), APIVersion: APIVersion},
		Metadata:     m, Spec: s,
	}, lost
}

// hidden names what stands in a resource's metadata and in no document of the dialect. Its
// name and identity in v3 are left out: v1 has other ones, that it shows. So are annotations of
// workload endpoints: the Docker plugin keeps there what it knows of the container, which
// "get -o wide" shows, and a warning about each endpoint would warn of nothing.
func (c conversion[M, S, R]) hidden(meta *model.Meta) (lost []string) {
	if meta == nil {
		return nil
	}
	if len(meta.Annotations) > 0 && c.kind != model.KindPolicy && c.kind != model.KindWorkloadEndpoint {
		lost = append(lost, "annotations")
	}
	if len(meta.V3Labels) > 0 {
		lost = append(lost, "metadata labels")
	}
	return append(lost, slices.Sorted(maps.Keys(meta.V3Inert))...)
}

// column makes a column from a function of a kind's document.
func column[M, S any](heading string, show func(*Resource[M, S], dialect.Cluster) string) dialect.Column {
	return dialect.Column{Heading: heading, Show: func(doc any, c dialect.Cluster) string {
		return show(doc.(*Resource[M, S]), c)
	}}
}

// need reports an identifier that is missing.
func need(r *tree.Report, field, value string) {
	path := "metadata." + field
	if value == "" && !r.Doubts(path) {
		r.Add(path, "missing; insufficient identifiers")
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

// Kinds lists the kinds of the dialect.
func Kinds() []dialect.Kind {
	return []dialect.Kind{
		bgpPeerKind(), hostEndpointKind(), ipPoolKind(), nodeKind(),
		policyKind(), profileKind(), workloadEndpointKind(),
	}
}

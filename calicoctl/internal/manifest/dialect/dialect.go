// Package dialect says what a way of writing resources consists of, so that the
// dialects of manifests (apiVersion v1, projectcalico.org/v3) are tables of the same
// shape over one model. It is pure.
package dialect

import (
	"reflect"

	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// Kind is one kind of resource as a dialect writes it.
type Kind struct {
	// APIVersion and Name are what stands in a document's apiVersion and kind.
	APIVersion, Name string
	// Model is the kind in the store.
	Model model.Kind
	// Aliases are the names that commands take, in lower case.
	Aliases []string

	// Identify reads the key of a document and ignores what else it says.
	Identify func(r *tree.Report) model.Key
	// Decode reads a document. What is wrong with it, in form or in meaning, is added
	// to the report; if anything is, the results are not to be used.
	Decode func(r *tree.Report) (model.Key, model.Resource)
	// Encode writes a resource as a document: a pointer to a struct with json tags.
	// lost names what the dialect cannot say of the resource.
	Encode func(k model.Key, v model.Resource) (doc any, lost []string)
	// Rules is how rules are written, in kinds that have them.
	Rules Rules
	// List puts documents into the list type that templates range over.
	List func(docs []any) any

	// Document is the type of the documents.
	Document reflect.Type

	// The following are nil, or empty, in a dialect that does not need them.

	// NameOf is what the dialect calls a resource, where that is not its key; such a
	// resource is identified by a [NameKey].
	NameOf func(k model.Key, v model.Resource) (namespace, name string)
	// KeyOf is the key that a resource of a name has, where it follows from the name; that
	// of a policy is the one in the default tier. ok is false, or KeyOf nil, where the
	// resource has to be looked for.
	KeyOf func(namespace, name string) (key model.Key, ok bool)
	// IdentifyName reads that name from a document, instead of Identify.
	IdentifyName func(r *tree.Report) (namespace, name string)
	// Owns tells which resources of the model's kind are of this kind.
	Owns func(k model.Key) bool
	// Namespaced is set for kinds that have a namespace.
	Namespaced bool
	// ReadOnly says why resources of the kind cannot be written.
	ReadOnly string
	// Revision is the one at which a document's author saw the resource.
	Revision func(r *tree.Report) int64
	// Settle ends what [Kind.Carry] does: it takes away what must not stand beside what
	// the document says.
	Settle func(v model.Resource)
	// Secret is where a resource has its secret, for which documents have the word
	// [scalar.Hidden] at SecretField. Reveal puts the secret itself into a document.
	Secret      func(v model.Resource) *string
	SecretField string
	Reveal      func(doc any, v model.Resource)
	// Compare orders documents of tables and lists otherwise than by key.
	Compare func(a, b any) int
	// Wrap puts documents into the list that yaml and json print; all says that they
	// are of one kind, and revision is the newest of theirs.
	Wrap func(docs []any, all bool, revision int64) any

	// Columns are all columns of tables; Short and Wide name those of the formats ps
	// and wide.
	Columns     []Column
	Short, Wide []string
}

// Column is a column of a table.
type Column struct {
	Heading string
	// Show is the text of the column for a document that Encode made.
	Show func(doc any, c Cluster) string
}

// Cluster is what tables need to know besides the resources themselves.
type Cluster struct {
	// ASNumber is the AS number of nodes that have none of their own.
	ASNumber model.ASNumber
}

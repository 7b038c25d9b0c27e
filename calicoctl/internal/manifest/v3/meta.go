package v3

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"calico.internal/calicoctl/internal/manifest/scalar"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// ObjectMeta is the metadata of a document.
type ObjectMeta struct {
	Name              string            `json:"name,omitempty"`
	Namespace         string            `json:"namespace,omitempty"`
	UID               string            `json:"uid,omitempty"`
	ResourceVersion   string            `json:"resourceVersion,omitempty"`
	CreationTimestamp Time              `json:"creationTimestamp,omitzero"`
	Labels            map[string]string `json:"labels,omitempty"`
	Annotations       map[string]string `json:"annotations,omitempty"`

	GenerateName    scalar.Kubernetes `json:"generateName,omitzero"`
	Generation      scalar.ServerKept `json:"generation,omitzero"`
	OwnerReferences scalar.ServerKept `json:"ownerReferences,omitzero"`
	Finalizers      scalar.ServerKept `json:"finalizers,omitzero"`
	ManagedFields   scalar.ServerKept `json:"managedFields,omitzero"`
	SelfLink        scalar.ServerKept `json:"selfLink,omitzero"`
	Deletion        Since             `json:"deletionTimestamp,omitzero"`
	DeletionGrace   scalar.ServerKept `json:"deletionGracePeriodSeconds,omitzero"`
}

// Since is a moment that is shown, and not taken from documents.
type Since struct {
	scalar.ServerKept
	Time
}

// lastApplied is the annotation in which kubectl keeps a copy of the document.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// dropLastApplied drops what kubectl keeps for itself.
func (m *ObjectMeta) dropLastApplied(r *tree.Report) {
	if _, ok := m.Annotations[lastApplied]; !ok {
		return
	}
	r.Warn(tree.Join("metadata.annotations", lastApplied), scalar.ServerKept{}.Drop())
	if delete(m.Annotations, lastApplied); len(m.Annotations) == 0 {
		m.Annotations = nil
	}
}

// Time is a moment, to the second.
type Time struct{ time.Time }

// UnmarshalText reads a time by RFC 3339.
func (t *Time) UnmarshalText(text []byte) error {
	at, err := time.Parse(time.RFC3339, string(text))
	if err != nil {
		return fmt.Errorf("%q is not a time such as 2017-09-01T12:00:00Z", text)
	}
	t.Time = at.UTC()
	return nil
}

// MarshalJSON writes the time by RFC 3339.
func (t Time) MarshalJSON() ([]byte, error) { return json.Marshal(t.Time) }

// meta is the metadata as the model has it.
func (m *ObjectMeta) meta() model.Meta {
	return model.Meta{
		UID: m.UID, CreationTimestamp: m.CreationTimestamp.Time,
		Annotations: m.Annotations, V3Labels: m.Labels,
	}
}

// show takes over what the model has.
func (m *ObjectMeta) show(from model.Meta) {
	m.UID, m.CreationTimestamp = from.UID, Time{from.CreationTimestamp}
	m.Annotations, m.Labels = from.Annotations, from.V3Labels
}

// The limits of Kubernetes for names and labels.
const (
	maxSubdomain = 253
	maxLabel     = 63

	subdomainRule = "must be 1 to 253 lower-case letters, digits, '-' or '.', a letter or digit at both ends of each part between dots"
	labelNameRule = "label name must be at most 63 letters, digits, '-', '_' or '.', a letter or digit first and last, " +
		"with or without a DNS name and '/' before it"
)

// checkMeta checks what all resources have in common. The rules for names and labels
// are narrower than those of the dialect v1; they hold for new objects.
func (c conversion[S, R]) checkMeta(r *tree.Report, m *ObjectMeta) {
	c.checkName(r, m.Name)
	m.dropLastApplied(r)
	switch {
	case !c.namespaced && m.Namespace != "":
		r.Add("metadata.namespace", "a %s has no namespace", c.name)
	case c.namespaced && m.Namespace == "":
		m.Namespace = model.DefaultNamespace
	case c.namespaced && m.Namespace != model.DefaultNamespace:
		r.Add("metadata.namespace", "%q: all of Docker's endpoints are in the namespace %s", m.Namespace, model.DefaultNamespace)
	}
	if _, err := strconv.ParseInt(m.ResourceVersion, 10, 64); m.ResourceVersion != "" && err != nil {
		r.Add("metadata.resourceVersion", "%q is not a revision: expected a number, as get printed it", m.ResourceVersion)
	}
	for _, name := range slices.Sorted(maps.Keys(m.Labels)) {
		if !isLabelName(name) {
			r.AddIfNew("metadata.labels", "%q: %s", name, labelNameRule)
		}
	}
}

func (c conversion[S, R]) checkName(r *tree.Report, name string) {
	switch {
	case name == "":
		if !r.Doubts("metadata.name") {
			r.Add("metadata.name", "missing")
		}
	case c.only != "" && name != c.only:
		r.Add("metadata.name", "%q: the only %s is called %s", name, c.name, c.only)
	case !c.anyName && !isSubdomain(name):
		r.AddIfNew("metadata.name", "%q: %s", name, subdomainRule)
	}
}

// isSubdomain is the rule of RFC 1123 for names of hosts.
func isSubdomain(s string) bool {
	return len(s) <= maxSubdomain && !slices.ContainsFunc(strings.Split(s, "."), func(part string) bool {
		return !isLabelPart(part) || strings.Contains(part, "_") || strings.ToLower(part) != part
	})
}

func isLabelName(s string) bool {
	prefix, name, found := strings.Cut(s, "/")
	if !found {
		return isLabelPart(s)
	}
	return isSubdomain(prefix) && isLabelPart(name)
}

func isLabelPart(s string) bool {
	alphanumeric := func(c byte) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
	}
	if s == "" || len(s) > maxLabel || !alphanumeric(s[0]) || !alphanumeric(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if !alphanumeric(s[i]) && !strings.ContainsRune("-_.", rune(s[i])) {
			return false
		}
	}
	return true
}

// revisionOf is the revision at which a document's author saw the resource.
func revisionOf(r *tree.Report) int64 {
	revision, _ := strconv.ParseInt(r.Root().Field("metadata").TextOf("resourceVersion"), 10, 64)
	return revision
}

// identify binds only the metadata; the name tells which resource is meant.
func identify(r *tree.Report, namespaced bool) (namespace, name string) {
	var m ObjectMeta
	meta := r.Root().Field("metadata")
	if meta == nil || meta.Kind != tree.Map {
		r.Add("metadata", "missing")
		return "", ""
	}
	tree.BindAt(r, "metadata", &m)
	if m.Name == "" && !r.Doubts("metadata.name") {
		r.Add("metadata.name", "missing; insufficient identifiers")
	}
	if namespaced && m.Namespace == "" {
		m.Namespace = model.DefaultNamespace
	}
	return m.Namespace, m.Name
}

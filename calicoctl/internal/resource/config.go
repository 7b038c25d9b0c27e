package resource

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/calicoctl/internal/manifest/settings"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// Component is a program with raw settings in the store.
type Component string

// ipipSetting is felix's name of the setting that turns IP-in-IP on.
const ipipSetting = "IpInIpEnabled"

// The components with raw settings.
const (
	BGP   Component = "bgp"
	Felix Component = "felix"
)

func (c Component) key(node, name string) model.Key {
	if c == BGP {
		return model.BGPConfigKey{Node: node, Name: name}
	}
	return model.FelixConfigKey{Node: node, Name: name}
}

// names is what the settings of a component are called that this version knows.
func (c Component) names() []string {
	if c == BGP {
		return settings.Known(settings.KindBGP)
	}
	return slices.Concat(settings.Known(settings.KindFelix), settings.Known(settings.KindCluster))
}

// warnUnregistered warns of the name of a node that is not there, which may come later; empty
// is none.
func (s *Store) warnUnregistered(ctx context.Context, node string) {
	if node != "" && errors.Is(s.nodeExists(ctx, node), etcdstore.ErrNotFound) {
		s.warnOnce(fmt.Sprintf("no node %s is registered: the setting has no effect until one is", node))
	}
}

// Raw reads a raw setting, of a node or (node empty) of all; nil when it is not set.
func (s *Store) Raw(ctx context.Context, c Component, node, name string) (*string, error) {
	e, err := s.etcd.Get(ctx, c.key(node, name))
	if errors.Is(err, etcdstore.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	setting, ok := e.Value.(*model.Setting)
	if !ok {
		return nil, fmt.Errorf("%s: unexpected value %T", e.Key, e.Value)
	}
	return &setting.Value, nil
}

// SetRaw writes a raw setting as it is. It warns of names that nothing here knows.
func (s *Store) SetRaw(ctx context.Context, c Component, node, name, value string) error {
	if known := c.names(); !slices.Contains(known, name) {
		s.warnOnce(fmt.Sprintf("%s is no setting of %s that this version knows%s", name, c, tree.DidYouMean(name, known)))
	}
	s.warnUnregistered(ctx, node)
	return s.put(ctx, raw{component: c, node: node, name: name, value: &value})
}

// UnsetRaw removes a raw setting.
func (s *Store) UnsetRaw(ctx context.Context, c Component, node, name string) error {
	return s.put(ctx, raw{component: c, node: node, name: name})
}

// errGUID refuses what would make all nodes hold what is in force.
var errGUID = errors.New("ClusterGUID is the id by which nodes know their datastore: it cannot be set or unset, and nodes that are to follow " +
	"a datastore with another one do so after \"calicoctl datastore unlock\"")

// raw is a raw setting to write; no value removes it.
type raw struct {
	component  Component
	node, name string
	value      *string
	// keep keeps what the stored value has, as JSON, and this one has no field for. What is to be
	// removed then gets the default in its place.
	keep     bool
	standard string
}

// put writes settings in one transaction. What nothing acts on is refused, unless it is
// stored so already.
func (s *Store) put(ctx context.Context, all ...raw) error {
	var others contest
	for {
		lost := s.putOnce(ctx, all)
		if err := others.lost(ctx, lost); err != nil || lost == nil {
			return err
		}
	}
}

func (s *Store) putOnce(ctx context.Context, all []raw) error {
	var writes []etcdstore.Write
	for _, r := range all {
		key := r.component.key(r.node, r.name)
		if key == guidKey {
			return errGUID
		}
		if err := s.unservedSetting(ctx, r); err != nil {
			return err
		}
		w, err := s.rawWrite(ctx, key, r)
		if err != nil {
			return err
		}
		writes = append(writes, w)
	}
	return s.write(ctx, writes...)
}

// rawWrite is the write of a raw setting. One that keeps a part of what is stored depends on
// that.
func (s *Store) rawWrite(ctx context.Context, key model.Key, r raw) (etcdstore.Write, error) {
	switch {
	case r.value == nil && r.keep:
		return s.rawRemoval(ctx, key, r.standard)
	case r.value == nil:
		return etcdstore.DeleteWrite(key, 0)
	}
	next := &model.Setting{Of: key.Kind(), Value: *r.value}
	if !r.keep {
		return etcdstore.PutWrite(key, next)
	}
	e, err := s.etcd.Get(ctx, key)
	switch old, _ := e.Value.(*model.Setting); {
	case errors.Is(err, etcdstore.ErrNotFound):
		return etcdstore.CreateWrite(key, next)
	case err != nil && !errors.Is(err, etcdstore.ErrUnreadable):
		return etcdstore.Write{}, err
	case old == nil: // nothing of it can be kept
		return etcdstore.PutWrite(key, next)
	default:
		next.Value = settings.KeepUnknown(old.Value, next.Value)
		return etcdstore.UpdateWrite(key, next, e.Revision)
	}
}

// rawRemoval removes a raw setting, but for what a newer program has written there, which stays
// beside the default.
func (s *Store) rawRemoval(ctx context.Context, key model.Key, standard string) (etcdstore.Write, error) {
	e, err := s.etcd.Get(ctx, key)
	old, _ := e.Value.(*model.Setting)
	switch {
	case err != nil && !errors.Is(err, etcdstore.ErrNotFound) && !errors.Is(err, etcdstore.ErrUnreadable):
		return etcdstore.Write{}, err
	case err != nil || old == nil:
		return etcdstore.DeleteWrite(key, 0)
	}
	if kept := settings.KeepUnknown(old.Value, standard); kept != standard {
		return etcdstore.UpdateWrite(key, &model.Setting{Of: key.Kind(), Value: kept}, e.Revision)
	}
	return etcdstore.DeleteWrite(key, e.Revision)
}

func (s *Store) unservedSetting(ctx context.Context, r raw) error {
	if r.component != Felix || r.name != ipipSetting || r.value == nil || !strings.EqualFold(*r.value, "true") {
		return nil
	}
	stored, err := s.Raw(ctx, r.component, r.node, r.name)
	switch {
	case err != nil:
		return err
	case stored == nil || !strings.EqualFold(*stored, "true"):
		return errors.New(string(manifest.UnservedIPIP))
	}
	s.warnOnce(string(manifest.UnservedIPIP) + " (it is stored so already, and stays)")
	return nil
}

// Setting is one of the settings that "calicoctl config" knows by name.
type Setting struct {
	Name string
	// PerNode says that a node may have a value of its own.
	PerNode bool
	// Values describes what the setting can be.
	Values string
	// Default is what holds when nothing is set.
	Default string

	// parse turns the user's value into the raw values to store, in the order of keys;
	// an error means that it is not a value.
	parse func(value string) ([]string, error)
	// show turns the raw value of the first key back.
	show func(raw string) string
	keys []settingKey
}

type settingKey struct {
	component Component
	name      string
}

// logLevels is the log levels of felix with what they are for BGP.
var logLevels = map[string]string{
	"none": "none", "debug": "debug", "info": "info", "warning": "none", "error": "none", "critical": "none",
}

// Settings lists the settings that have names of their own.
func Settings() []Setting {
	same := func(raw string) string { return raw }
	return []Setting{
		{
			Name: "logLevel", PerNode: true, Values: "none, debug, info, warning, error or critical", Default: "info",
			keys: []settingKey{{Felix, "LogSeverityScreen"}, {BGP, "loglevel"}},
			parse: func(v string) ([]string, error) {
				bgp, ok := logLevels[v]
				if !ok {
					return nil, fmt.Errorf("the supplied log level is not valid%s",
						tree.DidYouMean(v, []string{"none", "debug", "info", "warning", "error", "critical"}))
				}
				return []string{v, bgp}, nil
			},
			show: strings.ToLower,
		},
		{
			Name: "nodeToNodeMesh", Values: "on or off", Default: "on",
			keys:  []settingKey{{BGP, "node_mesh"}},
			parse: onOff(`{"enabled":true}`, `{"enabled":false}`),
			show: func(raw string) string {
				enabled, err := settings.ParseMesh(raw)
				return onIf(enabled && err == nil)
			},
		},
		{
			Name: "asNumber", Values: "1 to 4294967295, or two halves such as 64512.1", Default: fmt.Sprint(uint32(model.DefaultASNumber)),
			keys: []settingKey{{BGP, "as_num"}},
			parse: func(v string) ([]string, error) {
				as, err := model.ParseASNumber(v)
				if err != nil || as == 0 {
					return nil, fmt.Errorf("the supplied AS number is not valid: %q is not 1 to 4294967295, or two halves such as 64512.1", v)
				}
				return []string{fmt.Sprint(uint32(as))}, nil
			},
			show: same,
		},
		{
			Name: "ipip", Values: "on or off", Default: "off",
			keys:  []settingKey{{Felix, ipipSetting}},
			parse: onOff("true", "false"),
			show:  func(raw string) string { return onIf(strings.EqualFold(raw, "true")) },
		},
	}
}

func onOff(on, off string) func(string) ([]string, error) {
	return func(v string) ([]string, error) {
		switch v {
		case "on":
			return []string{on}, nil
		case "off":
			return []string{off}, nil
		}
		return nil, errors.New("the supplied value is not valid: expected on or off")
	}
}

func onIf(yes bool) string {
	if yes {
		return "on"
	}
	return "off"
}

// FindSetting finds a setting by its name in any case.
func FindSetting(name string) (Setting, error) {
	var names []string
	for _, st := range Settings() {
		if strings.EqualFold(st.Name, name) {
			return st, nil
		}
		names = append(names, st.Name)
	}
	return Setting{}, fmt.Errorf("unrecognized config name %q: expected %s%s", name, tree.OneOf(names), tree.DidYouMean(name, names))
}

// Parse checks a value and returns what is stored for it.
func (st Setting) Parse(value string) ([]string, error) { return st.parse(strings.ToLower(value)) }

// Set stores a setting's raw values, as Parse made them.
func (s *Store) Set(ctx context.Context, st Setting, node string, values []string) error {
	s.warnUnregistered(ctx, node)
	writes := make([]raw, len(st.keys))
	for i, k := range st.keys {
		writes[i] = raw{component: k.component, node: node, name: k.name, value: &values[i], keep: true}
	}
	return s.put(ctx, writes...)
}

// Unset removes a setting, so that the default, or for a node the global value, holds.
func (s *Store) Unset(ctx context.Context, st Setting, node string) error {
	standard, err := st.Parse(st.Default)
	if err != nil {
		return err
	}
	var writes []raw
	for i, k := range st.keys {
		writes = append(writes, raw{component: k.component, node: node, name: k.name, keep: true, standard: standard[i]})
	}
	return s.put(ctx, writes...)
}

// Value is the setting that holds: the node's own, else the global one, else the
// default.
func (s *Store) Value(ctx context.Context, st Setting, node string) (string, error) {
	places := []string{""}
	if node != "" {
		places = []string{node, ""}
	}
	for _, place := range places {
		v, err := s.Raw(ctx, st.keys[0].component, place, st.keys[0].name)
		if err != nil {
			return "", err
		}
		if v != nil {
			return st.show(*v), nil
		}
		if place != "" {
			if err := s.nodeExists(ctx, place); err != nil {
				return "", err
			}
		}
	}
	return st.Default, nil
}

func (s *Store) nodeExists(ctx context.Context, name string) error {
	k := model.NodeKey{Name: name}
	_, err := s.etcd.Get(ctx, k)
	if errors.Is(err, etcdstore.ErrNotFound) {
		return Missing(k)
	}
	return err
}

// GlobalASNumber is the AS number of nodes that have none of their own.
func (s *Store) GlobalASNumber(ctx context.Context) (model.ASNumber, error) {
	v, err := s.Raw(ctx, BGP, "", "as_num")
	if err != nil || v == nil {
		return model.DefaultASNumber, err
	}
	as, err := model.ParseASNumber(strings.Trim(*v, `" `))
	if err != nil {
		return model.DefaultASNumber, nil //nolint:nilerr // what bgpd does with a value that it cannot read
	}
	return as, nil
}

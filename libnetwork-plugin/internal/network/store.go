package network

import (
	"context"
	"errors"
	"fmt"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
	"calico.internal/libnetwork-plugin/internal/endpoint"
	"calico.internal/libnetwork-plugin/internal/registry"
	"calico.internal/libnetwork-plugin/internal/zone"
)

// adopt makes an endpoint one of its network, as far as that is known.
func (d *Driver) adopt(ep *model.WorkloadEndpoint, nw registry.Network) {
	if nw.Name == "" {
		return
	}
	endpoint.Annotate(ep, endpoint.Network, nw.Name)
	endpoint.DefaultLabels(ep, nw.Labels)
	if d.CreateProfiles {
		endpoint.UseProfile(ep, nw.Profile)
	}
}

// get reads an endpoint of this node.
func (d *Driver) get(ctx context.Context, id string) (etcdstore.Entry, error) {
	entry, err := d.Store.Get(ctx, endpoint.Key(d.Node, id))
	if errors.Is(err, etcdstore.ErrNotFound) {
		return entry, fmt.Errorf("the endpoint is not in etcd, it was removed since it was created: start the container again (%w)", err)
	}
	return entry, err
}

// write stores an endpoint with the owner of its addresses, its names and, if it is missing,
// its profile, in one transaction. revision is that of the endpoint that is replaced, which
// was was; it is 0 for a new one or for any.
func (d *Driver) write(ctx context.Context, id string, was, ep *model.WorkloadEndpoint, revision int64) (int64, error) {
	key := endpoint.Key(d.Node, id)
	writes, err := endpointWrites(key, was, ep, revision)
	if err != nil {
		return 0, err
	}
	for range attempts {
		var profiles []etcdstore.Write
		if profiles, err = d.missingProfiles(ctx, ep.Profiles); err != nil {
			return 0, err
		}
		var rev int64
		rev, err = d.Book.Bind(ctx, key, ep, append(profiles, writes...)...)
		if len(profiles) == 0 || !errors.Is(err, etcdstore.ErrConflict) {
			return rev, err
		}
		// Another node may have made the profile in the meantime.
	}
	return 0, err
}

// note writes what was learned of an endpoint of a revision, as long as it is that one.
func (d *Driver) note(ctx context.Context, id string, was, ep *model.WorkloadEndpoint, revision int64) error {
	key := endpoint.Key(d.Node, id)
	writes, err := endpointWrites(key, was, ep, revision)
	if err != nil {
		return err
	}
	return d.Book.Note(ctx, key, ep, writes...)
}

// endpointWrites replace an endpoint and its names.
func endpointWrites(key model.WorkloadEndpointKey, was, ep *model.WorkloadEndpoint, revision int64) ([]etcdstore.Write, error) {
	put, err := endpointWrite(key, ep, revision)
	if err != nil {
		return nil, err
	}
	names, err := nameWrites(key, was, ep)
	return append(names, put), err
}

// nameWrites are the writes that make an endpoint's names those that it has now.
func nameWrites(key model.WorkloadEndpointKey, was, is *model.WorkloadEndpoint) ([]etcdstore.Write, error) {
	var writes []etcdstore.Write
	for k, v := range zone.Names(key, is) {
		w, err := etcdstore.PutWrite(k, v)
		if err != nil {
			return nil, err
		}
		writes = append(writes, w)
	}
	for _, k := range zone.Gone(key, was, is) {
		w, err := etcdstore.DeleteWrite(k, 0)
		if err != nil {
			return nil, err
		}
		writes = append(writes, w)
	}
	return writes, nil
}

// endpointWrite replaces the endpoint of a revision, or any.
func endpointWrite(key model.WorkloadEndpointKey, ep *model.WorkloadEndpoint, revision int64) (etcdstore.Write, error) {
	if revision == 0 {
		return etcdstore.PutWrite(key, ep)
	}
	return etcdstore.UpdateWrite(key, ep, revision)
}

// missingProfiles are the writes that make the profiles that do not exist. One that
// exists is the users' and stays as it is.
func (d *Driver) missingProfiles(ctx context.Context, names []string) ([]etcdstore.Write, error) {
	if !d.CreateProfiles {
		return nil, nil
	}
	var writes []etcdstore.Write
	for _, name := range names {
		key := model.ProfileKey{Name: name}
		_, err := d.Store.Get(ctx, key)
		if err == nil {
			continue
		}
		if !errors.Is(err, etcdstore.ErrNotFound) {
			return nil, err
		}
		w, err := etcdstore.CreateWrite(key, endpoint.DefaultProfile(name))
		if err != nil {
			return nil, err
		}
		writes = append(writes, w)
	}
	return writes, nil
}

package daemon

import (
	"context"

	"calico.internal/libcalico/reconcile"
)

// heldChains are the tables of chains in the order of a pass. When they failed as a whole,
// as when another program holds the lock of iptables or its programs do not work, they are
// not tried again by every pass, but only when the loop says so. The passes between do what
// needs no chains: members of sets come and go, and what is not wanted goes.
type heldChains struct {
	*chains

	// fault is why the latest try failed as a whole.
	fault error
	// hold has fault stand for another try.
	hold bool
}

// ApplySets sets and deletes what differs.
func (h *heldChains) ApplySets(ctx context.Context) error {
	if h.hold && h.fault != nil {
		return h.fault
	}
	err := h.chains.ApplySets(ctx)
	h.fault = nil
	if err != nil && !reconcile.IsPartial(err) {
		h.fault = err
	}
	return err
}

// Apply does the same.
func (h *heldChains) Apply(ctx context.Context) error { return h.ApplySets(ctx) }

// Package desired holds what felix wants of the kernel, in words that belong to no
// particular dataplane: endpoints, policies, profiles and address sets. It is what the
// calculation ([calc]) makes and what a renderer and the reconcile targets consume. It
// is pure: plain values, no I/O.
//
// Values handed over in [Changes] are never modified afterwards; a changed object is a
// new value. A consumer may therefore keep them, and must not write to them.
//
// [calc]: calico.internal/felix/internal/calc
package desired

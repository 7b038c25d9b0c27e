package resource

import (
	"slices"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/libcalico/model"
)

// progress is which objects of a call are done.
type progress struct {
	objects []manifest.Object
	did     []Did // by object; empty while it is not done
}

func newProgress(objects []manifest.Object) *progress {
	return &progress{slices.Clone(objects), make([]Did, len(objects))}
}

// left is the objects that are not done, and where each stands among all.
func (p *progress) left() (objects []manifest.Object, at []int) {
	for i, did := range p.did {
		if did == "" {
			objects, at = append(objects, p.objects[i]), append(at, i)
		}
	}
	return objects, at
}

// outcomes is what became of those that are done, in the order of the objects.
func (p *progress) outcomes() []Outcome {
	var out []Outcome
	for i, did := range p.did {
		if did != "" {
			out = append(out, Outcome{p.objects[i], did, i})
		}
	}
	return out
}

// CompareKeys orders keys for writing: what others refer to comes before them, so that
// between two transactions nothing stands there that refers to what is to come. Deletions
// go the other way round.
func CompareKeys(a, b model.Key) int {
	if d := refers(a.Kind()) - refers(b.Kind()); d != 0 {
		return d
	}
	return model.Compare(a, b)
}

// refers is after how many others a kind comes: policies are in tiers and select sets,
// peers name filters, endpoints name profiles.
func refers(kind model.Kind) int {
	switch kind {
	case model.KindPolicy, model.KindProfile, model.KindBGPPeer:
		return 1
	case model.KindHostEndpoint, model.KindWorkloadEndpoint:
		return 2
	default:
		return 0
	}
}

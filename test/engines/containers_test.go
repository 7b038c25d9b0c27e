package engines

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"calico.internal/test/internal/labtest"
)

func networks(t *testing.T, r *rig) {
	r.network(t, "one", "--label a=b")
	r.network(t, "two", "--subnet 192.168.0.0/16")
	r.start(t, r.host(), "a", "--net one")
	if out, err := r.host().On(t.Context(), "docker network rm one"); err == nil {
		t.Errorf("a network with a container was removed: %s", out)
	}
	on(t, r.host(), "docker rm -f t-a")
	on(t, r.host(), "docker network rm one two")
	eventually(t, 10*time.Second, "the networks are gone everywhere", func() error {
		out, err := r.peer().On(t.Context(), "docker network ls -q --filter driver=calico")
		if err == nil && strings.TrimSpace(out) != "" {
			err = fmt.Errorf("there are %s", out)
		}
		return err
	})
	// A network of the same name is another one.
	r.network(t, "one", "")
}

func life(t *testing.T, r *rig) {
	r.network(t, "one", "")
	h := r.host()
	r.start(t, r.peer(), "peer", "--net one")
	r.reaches(t, "peer", r.start(t, h, "a", "--net one"))
	if out := on(t, h, "docker exec t-a ip addr show cali0"); !strings.Contains(out, "ee:ee:ee:ee:ee:ee") || !strings.Contains(out, address(t, h, "a")+"/32") {
		t.Errorf("the container has\n%s", out)
	}
	on(t, h, "docker stop -t 1 t-a")
	on(t, h, "docker start t-a")
	r.reaches(t, "peer", address(t, h, "a"))
	on(t, h, "docker kill t-a")
	on(t, h, "docker start t-a")
	r.reaches(t, "peer", address(t, h, "a"))
	on(t, h, "docker rm -f t-a")
	// One that ends by itself, and one that is removed by itself.
	on(t, h, "docker run --name t-short --net one calico/workload:%s true", r.Version)
	on(t, h, "docker run --rm --net one calico/workload:%s ping -c 1 -W 5 %s", r.Version, address(t, r.peer(), "peer"))
}

func restarted(t *testing.T, r *rig) {
	r.network(t, "one", "")
	r.start(t, r.peer(), "peer", "--net one")
	r.start(t, r.host(), "a", "--net one")
	for range 3 {
		on(t, r.host(), "docker restart -t 1 t-a")
		r.reaches(t, "peer", address(t, r.host(), "a"))
	}
}

// chosen addresses are those that were asked for, and go to nobody else meanwhile.
func chosen(t *testing.T, r *rig) {
	const ip, ip6, mac = "192.168.200.7", "fd80:24e2:f998:72d6::200:7", "02:42:00:00:00:07"
	r.network(t, "one", "--ipv6 --subnet 192.168.0.0/16 --subnet fd80:24e2:f998:72d6::/64")
	h := r.host()
	r.start(t, r.peer(), "peer", "--net one")
	flags := fmt.Sprintf("--net one --ip %s --ip6 %s --mac-address %s", ip, ip6, mac)
	r.start(t, h, "a", flags)
	out := on(t, h, "docker exec t-a ip addr show cali0")
	for _, want := range []string{ip + "/32", ip6 + "/128", mac} {
		if !strings.Contains(out, want) {
			t.Errorf("%s is not in\n%s", want, out)
		}
	}
	r.reaches(t, "peer", ip)
	// The hosts have no IPv6 addresses of their own, so no route leads to IPv6 from one to the other.
	r.start(t, h, "near", "--net one")
	r.reachesFrom(t, h, "near", "["+ip6+"]")
	labtest.Refused(t, h, fmt.Sprintf("docker run --name t-b --net one --ip %s calico/workload:%s", ip, r.Version), ip)
	labtest.Refused(t, h, fmt.Sprintf("docker run --name t-c --net one --ip6 %s calico/workload:%s", ip6, r.Version), ip6)
	on(t, h, "docker rm -f t-a t-b t-c")
	r.start(t, r.peer(), "a", flags)
}

func refused(t *testing.T, r *rig) {
	const create = "docker network create --driver calico --ipam-driver calico-ipam "
	labtest.Refused(t, r.host(), create+"-o nonsense=1 one", "nonsense")
	labtest.Refused(t, r.host(), create+"--internal one", "internal")
	labtest.Refused(t, r.host(), create+"--subnet 10.99.0.0/16 one", "10.99.0.0/16")
	if out := on(t, r.host(), "docker network ls -q --filter driver=calico"); out != "" {
		t.Errorf("a refused network is there: %s", out)
	}
}

// many containers start at once, each with an address of its own, and are removed at once.
func many(t *testing.T, r *rig) {
	n := 30
	if long() {
		n = 100
	}
	r.network(t, "one", "")
	h := r.host()
	atOnce := func(line string) {
		t.Helper()
		began := time.Now()
		var group sync.WaitGroup
		for i := range n {
			group.Go(func() {
				if out, err := h.On(t.Context(), fmt.Sprintf(line, i)); err != nil {
					t.Errorf("%v %s", err, out)
				}
			})
		}
		group.Wait()
		t.Logf("%d × %s: %.1f s", n, line, time.Since(began).Seconds())
	}
	atOnce("docker run -d --name t-%d --net one calico/workload:" + r.Version)
	out := on(t, h, "docker ps -q --filter name=^t- | xargs docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}'")
	addresses := map[string]bool{}
	for a := range strings.FieldsSeq(out) {
		addresses[a] = true
	}
	if len(addresses) != n {
		t.Errorf("%d containers have %d addresses", n, len(addresses))
	}
	r.start(t, r.peer(), "peer", "--net one")
	r.reaches(t, "peer", address(t, h, fmt.Sprint(n-1)))
	atOnce("docker rm -f t-%d")
}

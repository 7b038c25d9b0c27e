package lab

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// Container is a workload of the experiment.
type Container struct {
	Name, Network string
	Host          Host
	// IP is known once the container runs.
	IP string
	// Endpoint is Docker's id of its endpoint, Interface the host's end of its pair.
	Endpoint, Interface string
}

// Experiment is the reference experiment in profile mode.
type Experiment struct {
	lab        *Lab
	a, b, c, d *Container
}

// Run does the whole experiment, first in profile mode, then in label mode, and between them
// what befalls a node. The lab must be up.
func (l *Lab) Run(ctx context.Context) error {
	e := l.NewExperiment()
	if err := e.Run(ctx); err != nil {
		return err
	}
	if err := e.Day(ctx); err != nil {
		return err
	}
	return l.RunLabels(ctx)
}

// NewExperiment is the experiment with its four containers, none of them started.
func (l *Lab) NewExperiment() *Experiment {
	return &Experiment{
		lab: l,
		a:   &Container{Name: "workload-A", Network: "net1", Host: l.Hosts[0]},
		b:   &Container{Name: "workload-B", Network: "net2", Host: l.Hosts[0]},
		c:   &Container{Name: "workload-C", Network: "net1", Host: l.Hosts[1]},
		d:   &Container{Name: "workload-D", Network: "net2", Host: l.Hosts[1]},
	}
}

// Run does the experiment line by line.
func (e *Experiment) Run(ctx context.Context) error {
	return e.lab.session("The reference experiment").run(ctx, []step{
		{"calicoctl.cfg", e.configuration},
		{"calicoctl node run on every host", e.lab.startNodes("")},
		{"calicoctl node status: the mesh is up", e.meshUp},
		{"Two networks, made on one host", e.networks},
		{"Four containers on two hosts", e.containers},
		{"Who reaches whom", e.pings},
		{"Inside container A", e.inside},
		{"The pair's two ends", e.pair},
		{"ARP for 169.254.1.1", e.arp},
		{"Routes on two hosts", e.routes},
		{"Processes in calico-node", e.processes},
		{"confd's folders", e.confd},
		{"The key tree in etcd", e.keys},
		{"Profile and endpoint by calicoctl", e.resources},
		{"AS number, live", e.asNumber},
		{"A policy opens and closes a path, live", e.policy},
	})
}

func (e *Experiment) configuration(ctx context.Context, s *Session) error {
	_, err := s.see(ctx, "every host's calicoctl knows the store", e.lab.Hosts[0], "cat /etc/calico/calicoctl.cfg", contains(e.lab.EtcdEndpoint()))
	return err
}

// Nodes starts calico/node on every host of a lab that is up, without the experiment.
func (l *Lab) Nodes(ctx context.Context) error {
	return l.session("Make the hosts nodes").run(ctx, []step{
		{"calicoctl node run on every host", l.startNodes("")},
		{"The mesh is up", l.waitForMesh},
	})
}

// startNodes runs calico/node on every host, with more flags in label mode.
func (l *Lab) startNodes(flags string) func(context.Context, *Session) error {
	return func(ctx context.Context, s *Session) error {
		for _, h := range l.Hosts {
			line := strings.TrimSpace(fmt.Sprintf("calicoctl node run --ip=%s --name %s %s", h.IP, h.Node, flags))
			if _, err := s.see(ctx, h.Node+" runs", h, line, contains("Calico node started successfully")); err != nil {
				return err
			}
		}
		return nil
	}
}

func (e *Experiment) meshUp(ctx context.Context, s *Session) error {
	if err := e.lab.waitForMesh(ctx, s); err != nil {
		return err
	}
	wants := []want{contains("Calico process is running."), contains("IPv4 BGP status")}
	for _, h := range e.lab.Hosts[1:] {
		wants = append(wants, matches(regexp.QuoteMeta(h.IP)+` +\| node-to-node mesh +\| up +\|.*Established`))
	}
	_, err := s.see(ctx, "node00 has a session with both other nodes", e.lab.Hosts[0], "calicoctl node status", wants...)
	return err
}

func (l *Lab) waitForMesh(ctx context.Context, s *Session) error {
	return s.until(ctx, 30*time.Second, "every node has its mesh sessions", func(ctx context.Context) error {
		for _, h := range l.Hosts {
			out, err := h.On(ctx, "calicoctl node status")
			if err != nil {
				return err
			}
			if n := strings.Count(out, "Established"); n != len(l.Hosts)-1 {
				return fmt.Errorf("%s has %d of %d sessions", h.Node, n, len(l.Hosts)-1)
			}
		}
		return nil
	})
}

func (e *Experiment) networks(ctx context.Context, s *Session) error {
	h := e.lab.Hosts[0]
	for _, net := range []string{"net1", "net2"} {
		if _, err := s.on(ctx, h, "docker network create --driver calico --ipam-driver calico-ipam "+net); err != nil {
			return err
		}
	}
	for _, other := range e.lab.Hosts[1:] {
		if err := s.networkThere(ctx, other, "net1", "net2"); err != nil {
			return err
		}
	}
	return nil
}

// networkThere waits until a host that did not create networks has them, and shows that.
func (s *Session) networkThere(ctx context.Context, h Host, names ...string) error {
	if err := s.until(ctx, 5*time.Second, h.Node+", which did not create the networks, has them", func(ctx context.Context) error {
		_, err := h.On(ctx, "docker network inspect "+strings.Join(names, " "))
		return err
	}); err != nil {
		return err
	}
	var wants []want
	for _, name := range names {
		wants = append(wants, matches(name+` +calico +(local|global)`))
	}
	_, err := s.see(ctx, "it shows them", h, "docker network ls", wants...)
	return err
}

func (e *Experiment) all() []*Container { return []*Container{e.a, e.b, e.c, e.d} }

func (e *Experiment) containers(ctx context.Context, s *Session) error {
	for _, c := range e.all() {
		if err := s.start(ctx, c, ""); err != nil {
			return err
		}
	}
	return nil
}

// start runs a container and learns its address and endpoint.
func (s *Session) start(ctx context.Context, c *Container, flags string) error {
	line := strings.Join(strings.Fields(fmt.Sprintf("docker run -d --name %s --net %s %s calico/workload:%s", c.Name, c.Network, flags, s.lab.Version)), " ")
	if _, err := s.on(ctx, c.Host, line); err != nil {
		return err
	}
	return c.inspect(ctx)
}

func (c *Container) inspect(ctx context.Context) error {
	out, err := c.Host.On(ctx, fmt.Sprintf(`docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.EndpointID}}{{end}}' %s`, c.Name))
	if err != nil {
		return err
	}
	if _, err := fmt.Sscanf(out, "%s %s", &c.IP, &c.Endpoint); err != nil || len(c.Endpoint) < 11 {
		return fmt.Errorf("container %s has no address or endpoint: %q", c.Name, out)
	}
	c.Interface = "cali" + c.Endpoint[:11]
	return nil
}

func (e *Experiment) pings(ctx context.Context, s *Session) error {
	open := []struct {
		from     *Container
		to, name string
	}{
		{e.a, e.c.Name, "A reaches C by name, across hosts"},
		{e.a, e.c.IP, "A reaches C by address"},
		{e.c, e.a.IP, "C reaches A by address"},
		{e.b, e.d.Name, "B reaches D by name, across hosts"},
		{e.b, e.d.IP, "B reaches D by address"},
	}
	for _, p := range open {
		if err := s.reaches(ctx, p.name, p.from, p.to, 62); err != nil {
			return err
		}
	}
	for _, to := range []*Container{e.b, e.d} {
		if err := s.cut(ctx, fmt.Sprintf("A does not reach %s", strings.TrimPrefix(to.Name, "workload-")), e.a, to.IP); err != nil {
			return err
		}
	}
	return s.cut(ctx, "C does not reach B", e.c, e.b.IP)
}

// reaches pings once a flow: each ping process is a connection of its own.
func (s *Session) reaches(ctx context.Context, line string, from *Container, to string, ttl int) error {
	_, err := s.see(ctx, fmt.Sprintf("%s: TTL %d, 0 %% loss", line, ttl), from.Host,
		fmt.Sprintf("docker exec %s ping -c 3 -i 0.2 -W 2 %s", from.Name, to),
		contains(fmt.Sprintf("ttl=%d ", ttl)), contains(" 0% packet loss"))
	return err
}

// cut checks that nothing comes back. Whoever calls it also shows the same path open.
func (s *Session) cut(ctx context.Context, line string, from *Container, to string) error {
	cmd := fmt.Sprintf("docker exec %s ping -c 2 -i 0.2 -W 1 %s", from.Name, to)
	out, _ := s.try(ctx, from.Host, cmd) // ping fails when nothing answers
	return s.check(line+": 100 % loss", from.Host.Node+"# "+cmd, out, contains("100% packet loss"), lacks("bytes from"))
}

func (e *Experiment) inside(ctx context.Context, s *Session) error {
	h := e.a.Host
	if _, err := s.see(ctx, "cali0 has a /32 address and the fixed MAC", h, "docker exec workload-A ip addr show cali0",
		contains("inet "+e.a.IP+"/32"), contains("link/ether ee:ee:ee:ee:ee:ee")); err != nil {
		return err
	}
	_, err := s.see(ctx, "the only way out is 169.254.1.1", h, "docker exec workload-A ip route",
		contains("default via 169.254.1.1 dev cali0"), matches(`^169\.254\.1\.1 dev cali0 scope link`))
	return err
}

// inA is the shell prefix that enters A's network namespace with the host's tools.
func (e *Experiment) inA() string {
	return "nsenter -t $(docker inspect --format '{{.State.Pid}}' workload-A) -n "
}

func (e *Experiment) pair(ctx context.Context, s *Session) error {
	h := e.a.Host
	out, err := s.see(ctx, "cali0 is one end of a pair", h, e.inA()+"ethtool -S cali0", matches(`peer_ifindex: \d+`))
	if err != nil {
		return err
	}
	index := find(`peer_ifindex: (\d+)`, out)
	if _, err := s.see(ctx, "the host's end is "+e.a.Interface+", cali and 11 characters of the endpoint's id", h,
		"ip link show "+e.a.Interface, matches(`^`+index+`: `+e.a.Interface)); err != nil {
		return err
	}
	if _, err := s.see(ctx, "the host's end has no IPv4 address", h, "ip addr show "+e.a.Interface, lacks("inet ")); err != nil {
		return err
	}
	_, err = s.see(ctx, "the host answers ARP in place of others there", h,
		"cat /proc/sys/net/ipv4/conf/"+e.a.Interface+"/proxy_arp", equals("1"))
	return err
}

func (e *Experiment) arp(ctx context.Context, s *Session) error {
	h := e.a.Host
	mac, err := h.On(ctx, "cat /sys/class/net/"+e.a.Interface+"/address")
	if err != nil {
		return err
	}
	line := fmt.Sprintf("timeout 10 tcpdump -c 2 -lnei %s arp and host 169.254.1.1 >/tmp/arp 2>&1 & "+
		"until grep -q listening /tmp/arp; do sleep 0.1; done; %sip neigh flush dev cali0; "+
		"docker exec workload-A ping -c 1 -W 2 %s >/dev/null; wait; cat /tmp/arp", e.a.Interface, e.inA(), e.c.IP)
	_, err = s.see(ctx, "A asks who has 169.254.1.1, and the host answers with its own MAC", h, line,
		contains("Request who-has 169.254.1.1 tell "+e.a.IP),
		contains("Reply 169.254.1.1 is-at "+strings.TrimSpace(mac)))
	return err
}

func (e *Experiment) routes(ctx context.Context, s *Session) error {
	for _, h := range e.lab.Hosts[:2] {
		wants := []want{matches(`^blackhole 192\.168\.\d+\.\d+/26 proto bird`)}
		for _, c := range e.all() {
			if c.Host == h {
				wants = append(wants, matches(`^`+strings.ReplaceAll(c.IP, ".", `\.`)+` dev `+c.Interface+` scope link`))
			} else {
				wants = append(wants, matches(`^192\.168\.\d+\.\d+/26 via `+strings.ReplaceAll(c.Host.IP, ".", `\.`)+` dev eth0 proto bird`))
			}
		}
		if _, err := s.see(ctx, h.Node+" routes its own containers, its block and the other node's block", h, "ip route", wants...); err != nil {
			return err
		}
	}
	return nil
}

func (e *Experiment) processes(ctx context.Context, s *Session) error {
	wants := []want{contains("calico-node init"), contains("runsvdir -P /etc/service/enabled")}
	for _, service := range []string{"felix", "bgpd", "confd", "libnetwork"} {
		wants = append(wants, contains("runsv "+service), matches(`svlogd .*/var/log/calico/`+service))
	}
	_, err := s.see(ctx, "runit keeps every program and its logger", e.lab.Hosts[0], "docker exec calico-node ps axf", wants...)
	return err
}

func (e *Experiment) confd(ctx context.Context, s *Session) error {
	h := e.lab.Hosts[0]
	if _, err := s.see(ctx, "confd has conf.d, templates and the rendered configuration", h,
		"docker exec calico-node sh -c 'cd /etc/calico/confd && ls -1 conf.d templates config'",
		contains("conf.d:"), contains("templates:"), contains("config:"), contains("bgpd.toml")); err != nil {
		return err
	}
	if _, err := s.see(ctx, "the rendering is checked and reloaded by bgpd", h,
		"docker exec calico-node cat /etc/calico/confd/conf.d/bgpd.toml", contains("bgpd check"), contains("bgpd reload")); err != nil {
		return err
	}
	_, err := s.see(ctx, "the rendered configuration names the mesh", h,
		"docker exec calico-node cat /etc/calico/confd/config/bgpd.toml", contains(e.lab.Hosts[1].IP), contains(e.lab.Hosts[2].IP))
	return err
}

// etcdctl runs on the machine's own side: the hosts need no client.
func (s *Session) etcdctl(ctx context.Context, args string) (string, error) {
	fmt.Fprintf(s.out, "  etcd# etcdctl %s\n", args)
	out, err := output(ctx, "docker", "exec", s.lab.etcdContainer(), "sh", "-c", "etcdctl "+args)
	for _, l := range lines(out) {
		if l != "" {
			fmt.Fprintf(s.out, "    %s\n", l)
		}
	}
	return out, err
}

func (e *Experiment) keys(ctx context.Context, s *Session) error {
	out, err := s.etcdctl(ctx, "get --prefix --keys-only /calico")
	if err != nil {
		return err
	}
	if err := s.check("the classic key tree", "etcdctl get --prefix --keys-only /calico", out,
		contains("/calico/ipam/v2/assignment/ipv4/block/"), contains("/calico/v1/policy/profile/net1/rules"),
		contains("/calico/bgp/v1/host/node00/ip_addr_v4"), contains("/calico/v1/host/node00/workload/libnetwork/libnetwork/endpoint/"+e.a.Endpoint)); err != nil {
		return err
	}
	args := "get --prefix --keys-only /calico/ipam/v2/host/node00/ipv4/block/"
	out, err = s.etcdctl(ctx, args)
	if err != nil {
		return err
	}
	return s.check("node00's block", "etcdctl "+args, out, matches(`block/192\.168\.\d+\.\d+-26$`))
}

func (e *Experiment) resources(ctx context.Context, s *Session) error {
	h := e.lab.Hosts[0]
	if _, err := s.see(ctx, "net2's profile", h, "calicoctl get profile net2 -o yaml", equals(profileYAML("net2"))); err != nil {
		return err
	}
	_, err := s.see(ctx, "B's endpoint", h, "calicoctl get workloadEndpoint "+e.b.Endpoint+" -o yaml", equals(endpointYAML(e.b)))
	return err
}

func profileYAML(network string) string {
	return fmt.Sprintf(`- apiVersion: v1
  kind: profile
  metadata:
    name: %[1]s
    tags:
    - %[1]s
  spec:
    egress:
    - action: allow
      destination: {}
      source: {}
    ingress:
    - action: allow
      destination: {}
      source:
        tag: %[1]s
`, network)
}

func endpointYAML(c *Container) string {
	return fmt.Sprintf(`- apiVersion: v1
  kind: workloadEndpoint
  metadata:
    name: %s
    node: %s
    orchestrator: libnetwork
    workload: libnetwork
  spec:
    interfaceName: %s
    ipNetworks:
    - %s/32
    mac: ee:ee:ee:ee:ee:ee
    profiles:
    - %s
`, c.Endpoint, c.Host.Node, c.Interface, c.IP, c.Network)
}

// asNumber changes the cluster's AS while it runs: sessions come back with the new
// one, and no packet is lost, since the routes stay.
func (e *Experiment) asNumber(ctx context.Context, s *Session) error {
	h := e.lab.Hosts[0]
	if _, err := s.see(ctx, "the default AS", h, "calicoctl config get asNumber", equals("64512")); err != nil {
		return err
	}
	for _, as := range []string{"64567", "64512"} {
		if _, err := s.on(ctx, h, "calicoctl config set asNumber "+as); err != nil {
			return err
		}
		what := "every node's configuration holds AS " + as
		if err := s.until(ctx, 15*time.Second, what, e.everyConfigHas(`^as_number *= *`+as+`$`)); err != nil {
			return err
		}
		if err := e.lab.waitForMesh(ctx, s); err != nil {
			return err
		}
	}
	return s.reaches(ctx, "A still reaches C", e.a, e.c.IP, 62)
}

func (e *Experiment) everyConfigHas(expression string) func(context.Context) error {
	return func(ctx context.Context) error {
		for _, h := range e.lab.Hosts {
			out, err := h.On(ctx, "docker exec calico-node cat /etc/calico/confd/config/bgpd.toml")
			if err != nil {
				return err
			}
			if w := matches(expression); !w.holds(out) {
				return fmt.Errorf("%s: not yet", h.Node)
			}
		}
		return nil
	}
}

package lab

import (
	"context"
	"fmt"
)

const labelPolicies = `- apiVersion: v1
  kind: policy
  metadata:
    name: backend
  spec:
    order: 100
    selector: role == 'backend'
    types:
    - ingress
    - egress
    ingress:
    - action: allow
      source:
        selector: role == 'frontend'
    egress:
    - action: allow
- apiVersion: v1
  kind: policy
  metadata:
    name: frontend
  spec:
    order: 100
    selector: role == 'frontend'
    types:
    - ingress
    - egress
    egress:
    - action: allow
      destination:
        selector: role == 'backend'
`

// RunLabels does the experiment's second part: the nodes run again so that containers'
// labels, not networks, decide who may talk.
func (l *Lab) RunLabels(ctx context.Context) error {
	x := &labelled{
		lab:      l,
		frontend: &Container{Name: "frontend", Network: "net3", Host: l.Hosts[0]},
		backend:  &Container{Name: "backend", Network: "net3", Host: l.Hosts[1]},
		other:    &Container{Name: "other", Network: "net3", Host: l.Hosts[2]},
	}
	return l.session("Labels decide").run(ctx, []step{
		{"calicoctl node run --use-docker-networking-container-labels", x.rerun},
		{"Containers with labels", x.containers},
		{"An endpoint has its container's labels and no profile", x.endpoint},
		{"No policy, no traffic", x.nothing},
		{"frontend may reach backend, and nothing else", x.allowed},
	})
}

type labelled struct {
	lab                      *Lab
	frontend, backend, other *Container
}

func (x *labelled) rerun(ctx context.Context, s *Session) error {
	if err := x.lab.startNodes("--use-docker-networking-container-labels")(ctx, s); err != nil {
		return err
	}
	return x.lab.waitForMesh(ctx, s)
}

func (x *labelled) containers(ctx context.Context, s *Session) error {
	if _, err := s.on(ctx, x.lab.Hosts[0], "docker network create --driver calico --ipam-driver calico-ipam net3"); err != nil {
		return err
	}
	for _, other := range x.lab.Hosts[1:] {
		if err := s.networkThere(ctx, other, "net3"); err != nil {
			return err
		}
	}
	for _, c := range []*Container{x.frontend, x.backend, x.other} {
		if err := s.start(ctx, c, "--label org.projectcalico.label.role="+c.Name); err != nil {
			return err
		}
	}
	return nil
}

func (x *labelled) endpoint(ctx context.Context, s *Session) error {
	h := x.lab.Hosts[0]
	if _, err := s.see(ctx, "frontend's endpoint", h, "calicoctl get workloadEndpoint "+x.frontend.Endpoint+" -o yaml",
		matches(`^    labels:\n      role: frontend$`), lacks("profiles:")); err != nil {
		return err
	}
	_, err := s.see(ctx, "no profile is made for the network", h, "calicoctl get profiles", lacks("net3"))
	return err
}

func (x *labelled) nothing(ctx context.Context, s *Session) error {
	return s.cut(ctx, "frontend does not reach backend", x.frontend, x.backend.IP)
}

func (x *labelled) allowed(ctx context.Context, s *Session) error {
	line := fmt.Sprintf("calicoctl apply -f - <<'EOF'\n%sEOF", labelPolicies)
	if _, err := s.see(ctx, "the policies are stored", x.frontend.Host, line, contains("Successfully applied 2 'policy' resource(s)")); err != nil {
		return err
	}
	if err := s.reaches(ctx, "frontend reaches backend, across hosts", x.frontend, x.backend.IP, 62); err != nil {
		return err
	}
	for _, p := range []struct{ from, to *Container }{
		{x.backend, x.frontend}, {x.other, x.backend}, {x.other, x.frontend}, {x.frontend, x.other},
	} {
		if err := s.cut(ctx, fmt.Sprintf("%s does not reach %s", p.from.Name, p.to.Name), p.from, p.to.IP); err != nil {
			return err
		}
	}
	return nil
}

package launch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/nodestart/address"
)

// ImageLabel is the label of our images, and nodeImage its value for the one of a node.
const (
	ImageLabel = "org.projectcalico.docker.image"
	nodeImage  = "node"
)

// versionLabel holds an image's version.
const versionLabel = "org.opencontainers.image.version"

// image is what the engine knows of an image.
type image struct {
	ID, ref string
	Config  struct {
		Env, Cmd, Entrypoint []string
		Labels               map[string]string
		WorkingDir           string
		ExposedPorts         map[string]struct{}
		Volumes              map[string]struct{}
		Healthcheck          json.RawMessage
		StopSignal           string
		User                 string
	}
}

// version is how messages name what an image holds.
func (i *image) version() string {
	if v := i.Config.Labels[versionLabel]; v != "" {
		return v
	}
	return fmt.Sprintf("unknown (%.19s)", i.ID)
}

// inspectImage asks the engine for an image; nil when it is not here.
func inspectImage(ctx context.Context, ref string) (*image, error) {
	out, err := docker(ctx, "image", "inspect", ref)
	if err != nil {
		if strings.Contains(err.Error(), "No such image") {
			return nil, nil //nolint:nilnil // it is not here
		}
		return nil, err
	}
	var list []*image
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 1 {
		return nil, fmt.Errorf("docker image inspect %s: unexpected answer: %w", ref, err)
	}
	list[0].ref = ref
	return list[0], nil
}

// howToGet says where our image comes from.
const howToGet = "The image is built in the project's folder by `make images`, and comes to another host by " +
	"`docker save IMAGE | ssh HOST docker load`, or by a registry of yours; --node-image names it"

// findImage makes sure that the image is here, pulls it if it is not, and that it is ours.
func findImage(ctx context.Context, out io.Writer, ref string) (*image, error) {
	found, err := inspectImage(ctx, ref)
	if err != nil {
		return nil, err
	}
	if found == nil {
		if err := pull(ctx, out, ref); err != nil {
			return nil, fmt.Errorf("image %s is not on this host, and cannot be pulled: %w\n%s", ref, err, howToGet)
		}
		if found, err = inspectImage(ctx, ref); err != nil {
			return nil, err
		}
		if found == nil {
			return nil, fmt.Errorf("image %s was pulled, and is not on this host", ref)
		}
	}
	if found.Config.Labels[ImageLabel] != nodeImage {
		return nil, fmt.Errorf("image %s is not ours: it has no label %s=%s, and would get far-reaching rights on this host. "+
			"The original project's images have such names too.\n%s", ref, ImageLabel, nodeImage, howToGet)
	}
	return found, nil
}

// pull pulls an image and shows how far it is.
func pull(ctx context.Context, out io.Writer, ref string) error {
	fmt.Fprintf(out, "Pulling image %s, which is not on this host yet.\n", ref)
	var said strings.Builder
	cmd := exec.CommandContext(ctx, "docker", "pull", ref)
	cmd.Stdout, cmd.Stderr = out, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("docker pull: %w\n%s", err, quote(said.String()))
	}
	return nil
}

// checkAddresses refuses an address that no interface of this host has: bgpd could not use
// it.
func checkAddresses(o Options, interfaces []address.Interface) error {
	if o.Backend == "none" {
		return nil
	}
	for _, given := range []struct{ flag, text string }{{"--ip", o.IP}, {"--ip6", o.IP6}} {
		a, ok := givenAddress(given.text)
		if !ok {
			continue
		}
		if _, err := address.Find(interfaces, a); err != nil {
			return fmt.Errorf("%s=%s: no interface of this host has this address. There are: %s", given.flag, given.text, addressesOf(interfaces, a.Is4()))
		}
	}
	return nil
}

// givenAddress is the address of --ip, if it is one.
func givenAddress(text string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(text); err == nil {
		return a, true
	}
	p, err := netip.ParsePrefix(text)
	return p.Addr(), err == nil
}

// addressesOf lists the addresses of a family that a host may be known by, which those of the
// engine's own bridges are not.
func addressesOf(interfaces []address.Interface, v4 bool) string {
	var all []string
	for _, i := range interfaces {
		if localnet.IsDockerBridge(i.Name) {
			continue
		}
		for _, p := range i.Prefixes {
			if p.Addr().Is4() == v4 && p.Addr().IsGlobalUnicast() {
				all = append(all, i.Name+" "+p.String())
			}
		}
	}
	if len(all) == 0 {
		return "none of this family"
	}
	return strings.Join(all, ", ")
}

// The exit codes of the container that checks: the start-up would fail, it knows no such
// check, and docker's own for a program that is not in the image.
const (
	exitRefused   = 1
	exitNoOption  = 2
	exitNoProgram = 127
)

// checkStartUp asks the start-up of the image, in a container that goes at once, whether it
// would be done.
func checkStartUp(ctx context.Context, w io.Writer, o Options, etcd etcdstore.Config) error {
	file, err := temporarySecrets(Secrets(o, etcd))
	if err != nil {
		return err
	}
	defer os.Remove(file) //nolint:errcheck // a copy of a secret, in a folder of root's
	var mounts []string
	for _, m := range volumes(o) {
		onHost, rest, _ := strings.Cut(m, ":")
		if _, err := os.Stat(onHost); err != nil || strings.HasPrefix(rest, "/run") {
			continue // docker would make it
		}
		if !strings.Contains(rest, ":") {
			m += ":ro"
		}
		mounts = append(mounts, m)
	}
	if err := remove(ctx, checkName); err != nil { // of a run that was killed
		return err
	}
	said, err := docker(ctx, CheckCommand(o, etcd, file, mounts)[1:]...)
	if ctx.Err() != nil { // the client was killed, and the container is left
		err = errors.Join(err, remove(context.WithoutCancel(ctx), checkName))
	}
	return judgeCheck(ctx, w, o.Image, said, err)
}

// temporarySecrets writes secrets into a file that only root may read.
func temporarySecrets(text string) (path string, err error) {
	f, err := os.CreateTemp("", "calico-node-check-") // mode 0600
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

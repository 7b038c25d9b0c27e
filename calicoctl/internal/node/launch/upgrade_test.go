package launch

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/calicoctl/internal/engine"
)

// TestASuccessorHasTheSameArguments makes a container by arguments, and a successor by what
// the engine tells of it, and compares what the engine tells of both.
func TestASuccessorHasTheSameArguments(t *testing.T) {
	needEngine(t)
	one, two := fmt.Sprintf("launch-test-%d-a", os.Getpid()), fmt.Sprintf("launch-test-%d-b", os.Getpid())
	defer remove(t.Context(), one) //nolint:errcheck // the test is over
	defer remove(t.Context(), two) //nolint:errcheck // the test is over
	flags := "create --net=host --cap-add=NET_ADMIN --security-opt=systempaths=unconfined --security-opt=apparmor=unconfined --restart=on-failure:3 " +
		"-e NODENAME=n -e CALICO_LIBNETWORK_ENABLED=true -e FROM_IMAGE=2 -v /tmp/x:/var/log/calico -v /run:/run:rslave --memory=64m --label=a=b --ulimit nofile=1000:2000 --log-driver=none"
	if _, err := docker(t.Context(), append(strings.Fields(flags), "--name="+one, testImage)...); err != nil {
		t.Fatal(err)
	}
	was, err := readAsIs(t.Context(), one)
	if err != nil {
		t.Fatal(err)
	}
	from, err := inspectImage(t.Context(), was.Image)
	if err != nil || from == nil {
		t.Fatalf("image: %v", err)
	}
	next := was.successor(from, testImage)
	for _, name := range []string{"Cmd", "Entrypoint"} {
		if v, ok := next.Config[name]; ok && v != nil {
			t.Errorf("%s is the old image's: %v", name, v)
		}
	}
	host, err := engineHost(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := engine.Create(t.Context(), host, two, next); err != nil {
		t.Fatal(err)
	}
	is, err := readAsIs(t.Context(), two)
	if err != nil {
		t.Fatal(err)
	}
	is.HostConfig["RestartPolicy"] = was.HostConfig["RestartPolicy"]
	if diff := cmp.Diff(was, is); diff != "" {
		t.Errorf("the successor differs (-was +is):\n%s", diff)
	}
	if got := was.HostConfig.policy(); got != "on-failure:3" {
		t.Errorf("policy %s", got)
	}
	if l := was.launcher(nil, 0); l.logDir != "/tmp/x" || strings.Join(l.programs, " ") != "felix bgpd confd libnetwork" {
		t.Errorf("logs in %s of %v", l.logDir, l.programs)
	}
}

func TestWhatCameFromTheOldImageStaysThere(t *testing.T) {
	was, err := parseAsIs(`[{"Image":"sha256:1","Config":{"Image":"old","Env":["PATH=/bin","NODENAME=n","SVDIR=/mine"],"Cmd":["start_runit"],"Entrypoint":null,
		"Labels":{"org.projectcalico.docker.image":"node","mine":"1"},"WorkingDir":"","StopTimeout":15},"HostConfig":{"Binds":["/run:/run:rslave","/a:/b"],"CapAdd":["NET_ADMIN"],
		"RestartPolicy":{"Name":"always","MaximumRetryCount":0},"Memory":9007199254740993}}]`)
	if err != nil {
		t.Fatal(err)
	}
	var from image
	if err := json.Unmarshal([]byte(`{"Config":{"Env":["PATH=/bin","SVDIR=/etc"],"Cmd":["start_runit"],"Labels":{"org.projectcalico.docker.image":"node"}}}`), &from); err != nil {
		t.Fatal(err)
	}
	next := was.successor(&from, "new")
	got, err := json.Marshal(next)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"Config":{"Env":["NODENAME=n","SVDIR=/mine"],"Image":"new","Labels":{"mine":"1"},"StopTimeout":15},` +
		`"HostConfig":{"Binds":["/run:/run:rslave","/a:/b"],"CapAdd":["NET_ADMIN"],"Memory":9007199254740993,"RestartPolicy":{"Name":"no"}}}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("successor (-want +got):\n%s", diff)
	}
	looks, err := json.Marshal(check(next).HostConfig)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(`{"Binds":["/a:/b:ro"],"Memory":9007199254740993,"RestartPolicy":{"Name":"no"}}`, string(looks)); diff != "" {
		t.Errorf("what checks (-want +got):\n%s", diff)
	}
	if got := was.HostConfig.policy(); got != "always" {
		t.Errorf("policy %s", got)
	}
}

package iptables

import (
	"strings"
	"testing"

	"calico.internal/libcalico/nettest"
)

func TestDetectFollowsDocker(t *testing.T) {
	docker := func(t *testing.T, variant string) {
		nettest.Run(t, "iptables-"+variant, "-w", "-N", "DOCKER")
		nettest.Run(t, "iptables-"+variant, "-w", "-N", "DOCKER-USER")
	}
	system, err := systemDefault(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		docker  []string
		setting string
		want    string
		both    bool
	}{
		{"no Docker", nil, Auto, system, false},
		{"Docker in legacy", []string{Legacy}, Auto, Legacy, false},
		{"Docker in nft", []string{NFT}, Auto, NFT, false},
		{"Docker in both", []string{Legacy, NFT}, Auto, system, true},
		{"the configuration says legacy", []string{NFT}, Legacy, Legacy, false},
		{"the configuration says nft", []string{Legacy}, NFT, NFT, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			nettest.Isolate(t)
			for _, v := range c.docker {
				docker(t, v)
			}
			b, err := Detect(t.Context(), c.setting)
			if err != nil || b.Variant != c.want || b.OtherInUse != c.both || b.Why == "" {
				t.Errorf("got %+v, %v; want %s", b, err, c.want)
			}
			if len(c.docker) == 0 && len(LegacyTables(4)) > 0 {
				t.Error("to look made legacy tables")
			}
		})
	}
}

func TestDetectWithoutIptables(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for _, setting := range []string{Auto, Legacy, NFT} {
		if _, err := Detect(t.Context(), setting); err == nil || !strings.Contains(err.Error(), "install Debian's package iptables") {
			t.Errorf("%s: got %v", setting, err)
		}
	}
	if _, err := Detect(t.Context(), "ebtables"); err == nil {
		t.Error("an unknown variant was taken")
	}
}

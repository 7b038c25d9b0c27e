package sandbox

import "testing"

func TestNetworksOfAContainerGetDistinctNumbers(t *testing.T) {
	table := New()
	steps := []struct {
		name, sandbox, endpoint string
		want                    int
	}{
		{"the first network", "s1", "a", 1},
		{"the second of the same container", "s1", "b", 2},
		{"the same call again", "s1", "a", 1},
		{"another container begins at one", "s2", "c", 1},
		{"an endpoint that moves counts anew", "s2", "a", 2},
		{"the gap that it left is used", "s1", "d", 1},
	}
	for _, s := range steps {
		if got := table.Join(s.sandbox, s.endpoint); got != s.want {
			t.Errorf("%s: %d, want %d", s.name, got, s.want)
		}
	}
}

func TestALeftNumberIsFree(t *testing.T) {
	table := New()
	table.Join("s", "a")
	table.Join("s", "b")
	table.Leave("a")
	table.Leave("a")
	if got := table.Join("s", "c"); got != 1 {
		t.Errorf("number %d", got)
	}
}

func TestARestoredEndpointKeepsItsNumber(t *testing.T) {
	table := New()
	table.Restore("s", "b", 2)
	if got := table.Join("s", "a"); got != 1 {
		t.Errorf("number of a new endpoint %d", got)
	}
	if got := table.Join("s", "b"); got != 2 {
		t.Errorf("number of the restored endpoint %d", got)
	}
}

package spiffeid_test

import (
	"testing"

	"tero.internal/common/spiffeid"
)

func TestIDs(t *testing.T) {
	td, err := spiffeid.ParseTrustDomain("node1.tero")
	if err != nil {
		t.Fatal(err)
	}
	for want, got := range map[string]func(string) (string, error){
		"spiffe://node1.tero/workload/web": td.Workload,
		"spiffe://node1.tero/node/web":     td.Node,
		"spiffe://node1.tero/user/web":     td.User,
	} {
		if id, err := got("web"); err != nil || id != want {
			t.Errorf("got %q, %v; want %q", id, err, want)
		}
		if id, err := got("../admin"); err == nil {
			t.Errorf("%q was made of a name with a slash", id)
		}
	}
	if _, err := spiffeid.ParseTrustDomain("Not A Domain"); err == nil {
		t.Error("a bad trust domain was accepted")
	}
}

func TestWorkloadNameIsTheInverseOfWorkload(t *testing.T) {
	td, err := spiffeid.ParseTrustDomain("node1.tero")
	if err != nil {
		t.Fatal(err)
	}
	if name, err := td.WorkloadName("spiffe://node1.tero/workload/web"); err != nil || name != "web" {
		t.Errorf("got %q, %v", name, err)
	}
	for _, bad := range []string{
		"", "web", "spiffe://node2.tero/workload/web", "spiffe://node1.tero/node/web", "spiffe://node1.tero/workload",
		"spiffe://node1.tero/workload/web/x", "spiffe://node1.tero/workload/", "https://node1.tero/workload/web",
	} {
		if name, err := td.WorkloadName(bad); err == nil {
			t.Errorf("%q gave the name %q", bad, name)
		}
	}
}

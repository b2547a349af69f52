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

package network_test

import (
	"context"
	"errors"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/network-manager/internal/nettest"
	"tero.internal/network-manager/network"
)

// remains tells what of an endpoint the packet filter knows.
func remains(t *testing.T, c *container) bool {
	t.Helper()
	rules, err := exec.Command("nft", "list", "ruleset").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(rules), c.addr().String())
}

func TestDetachThatFailedCanBeTriedAgain(t *testing.T) {
	for name, damage := range map[string]func(*network.Manager, *testing.T) func(){
		"policy":  func(m *network.Manager, _ *testing.T) func() { return m.BreakTable() },
		"journal": (*network.Manager).BreakJournal,
	} {
		t.Run(name, func(t *testing.T) {
			m, c := open(t, nil)
			apply(t, m, webFromClient)
			web, client := attach(t, m, "web", nil), attach(t, m, "client", nil)
			mend := damage(m, t)
			for range 2 {
				if err := m.Detach(t.Context(), web.id); err == nil {
					t.Fatal("no error")
				}
			}
			if name == "policy" {
				if err := m.Detach(t.Context(), web.id); !errors.Is(err, network.ErrBroken) {
					t.Errorf("error: %v", err)
				}
				if es := m.Endpoints(""); len(es) != 2 || !remains(t, web) {
					t.Errorf("forgotten though it is in the kernel: %+v", es)
				}
			} else if remains(t, web) {
				t.Error("it has policy still")
			}
			mend()
			if err := m.Detach(t.Context(), web.id); err != nil {
				t.Fatal(err)
			}
			waitGone(t, web.endpoint.HostInterface)
			if es := m.Endpoints(""); len(es) != 1 || remains(t, web) || !remains(t, client) {
				t.Errorf("after the detach: %+v", es)
			}
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
			m = reopen(t, c)
			if es := m.Endpoints(""); len(es) != 1 || es[0].Name != "client" {
				t.Errorf("after a restart: %+v", es)
			}
		})
	}
}

func TestWhatIsLeavingIsNotAttachedOver(t *testing.T) {
	m, _ := open(t, nil)
	web := attach(t, m, "web", nil)
	mend := m.BreakJournal(t)
	if err := m.Detach(t.Context(), web.id); err == nil {
		t.Fatal("no error")
	}
	mend()
	a := workload.Attachment{Container: web.id, Name: "web", Network: "default", NetNS: web.Path(), Interface: "eth0"}
	if _, err := m.Attach(t.Context(), a); fault.KindOf(err) != fault.Exists || fault.HintOf(err) == "" {
		t.Errorf("attached over what is left: %v", err)
	}
	if err := m.Reconcile(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Attach(t.Context(), a); err != nil {
		t.Errorf("after Reconcile: %v", err)
	}
}

func TestAttachThatCannotBeUndoneIsLeftToDetach(t *testing.T) {
	m, _ := open(t, nil)
	ns := nettest.New(t)
	a := workload.Attachment{Container: workload.NewID(), Name: "web", Network: "default", NetNS: ns.Path(), Interface: "eth0"}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	mend := m.TireTable(cancel)
	if _, err := m.Attach(ctx, a); !errors.Is(err, context.Canceled) || !errors.Is(err, network.ErrBroken) {
		t.Fatalf("error: %v", err)
	}
	if es := m.Endpoints(""); len(es) != 1 {
		t.Fatalf("forgotten though it is in the kernel: %+v", es)
	}
	mend()
	if err := m.Detach(t.Context(), a.Container); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Attach(t.Context(), a); err != nil {
		t.Error(err)
	}
}

// TestCrashBetweenDoomAndRecord: an interface that is about to be removed keeps
// no endpoint alive.
func TestCrashBetweenDoomAndRecord(t *testing.T) {
	m, c := open(t, nil)
	web := attach(t, m, "web", nil)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(group(t, web.endpoint.HostInterface))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ip", "link", "set", web.endpoint.HostInterface, "group", strconv.Itoa(number+1)).CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	m = reopen(t, c)
	if es := m.Endpoints(""); len(es) != 0 {
		t.Errorf("taken up: %+v", es)
	}
	waitGone(t, web.endpoint.HostInterface)
}

// TestFailedPolicyIsMadeAnew: what a failed change left in the kernel does not
// stay because the manager does not know of it.
func TestFailedPolicyIsMadeAnew(t *testing.T) {
	m, _ := open(t, nil)
	web, client := attach(t, m, "web", nil), attach(t, m, "client", nil)
	web.listen(t, 8080)
	mend := m.DeafenTable()
	if _, err := m.ApplySegments(t.Context(), "x", []byte(webFromClient)); !errors.Is(err, network.ErrBroken) {
		t.Fatalf("error: %v", err)
	}
	mend()
	attach(t, m, "other", nil)
	if conn, err := client.dial(web.addr(), 8080); err == nil {
		conn.Close()
		t.Error("a segment that was refused is in force")
	}
}

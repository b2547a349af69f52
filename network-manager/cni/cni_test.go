package cni_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"tero.internal/network-manager/cni"
	"tero.internal/network-manager/internal/nettest"
	"tero.internal/network-manager/network"
)

func TestMain(m *testing.M) { nettest.Main(m) }

// start serves CNI from a manager and gives the folder with the built plugin.
func start(t testing.TB) (m *network.Manager, bin string) {
	t.Helper()
	m, err := network.Open(t.Context(), network.Config{
		StateDir: t.TempDir(), RunDir: t.TempDir(), Table: "qcni", InterfacePrefix: "qc", Pool: netip.MustParsePrefix("10.98.0.0/24"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	s, err := cni.Open(t.Context(), m.CNISocket(), m, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("QUANTUM_CNI_SOCKET", m.CNISocket())
	return m, build(t)
}

func build(t testing.TB) string {
	t.Helper()
	bin := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "tero.internal/cmd/quantum-cni")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build quantum-cni: %v\n%s", err, out)
	}
	return bin
}

func list(t *testing.T, version string) *libcni.NetworkConfigList {
	t.Helper()
	l, err := libcni.ConfListFromBytes(fmt.Appendf(nil, `{"cniVersion":%q,"name":"tero","plugins":[{"type":"quantum-cni"}]}`, version))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestEveryVerbByTheReferenceLibrary(t *testing.T) {
	m, bin := start(t)
	for _, version := range cni.Versions() {
		t.Run(version, func(t *testing.T) {
			c := libcni.NewCNIConfigWithCacheDir([]string{bin}, t.TempDir(), nil)
			l := list(t, version)
			ns := nettest.New(t)
			rt := &libcni.RuntimeConf{
				ContainerID: "pod-1." + version, NetNS: ns.Path(), IfName: "eth0",
				Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAME", "shop"}, {"K8S_POD_NAMESPACE", "front"}},
			}
			if version == "1.1.0" {
				if err := c.GetStatusNetworkList(t.Context(), l); err != nil {
					t.Fatalf("STATUS: %v", err)
				}
			}
			r, err := c.AddNetworkList(t.Context(), l, rt)
			if err != nil {
				t.Fatalf("ADD: %v", err)
			}
			checkResult(t, m, r, rt)
			if err := c.CheckNetworkList(t.Context(), l, rt); err != nil {
				t.Errorf("CHECK: %v", err)
			}
			if _, err := c.AddNetworkList(t.Context(), l, rt); err == nil {
				t.Error("a second ADD succeeded")
			}
			ns.Do(func() { err = exec.Command("ip", "addr", "flush", "dev", "eth0").Run() })
			if err != nil {
				t.Fatal(err)
			}
			if err := c.CheckNetworkList(t.Context(), l, rt); err == nil || !strings.Contains(err.Error(), "has lost its address") {
				t.Errorf("CHECK without address: %v", err)
			}
			if version == "1.1.0" {
				keep := *rt
				if err := c.GCNetworkList(t.Context(), l, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: keep.ContainerID, IfName: "eth0"}}}); err != nil {
					t.Errorf("GC: %v", err)
				}
				if len(m.Endpoints("")) != 1 {
					t.Error("GC removed what is valid")
				}
				if err := c.GCNetworkList(t.Context(), l, &libcni.GCArgs{}); err != nil {
					t.Errorf("GC: %v", err)
				}
				if es := m.Endpoints(""); len(es) != 0 {
					t.Errorf("GC left %+v", es)
				}
			}
			ns.End()
			for range 2 { // idempotent, and after the namespace is gone
				if err := c.DelNetworkList(t.Context(), l, rt); err != nil {
					t.Errorf("DEL: %v", err)
				}
			}
			if es := m.Endpoints(""); len(es) != 0 {
				t.Errorf("DEL left %+v", es)
			}
		})
	}
}

func checkResult(t *testing.T, m *network.Manager, r types.Result, rt *libcni.RuntimeConf) {
	t.Helper()
	res, err := types100.NewResultFromResult(r)
	if err != nil {
		t.Fatal(err)
	}
	es := m.Endpoints("")
	if len(es) != 1 {
		t.Fatalf("endpoints: %+v", es)
	}
	e := es[0]
	if len(res.IPs) != 1 || res.IPs[0].Address.IP.String() != e.Address.String() || res.IPs[0].Interface == nil ||
		res.Interfaces[*res.IPs[0].Interface].Sandbox != rt.NetNS || res.Interfaces[0].Name != e.HostInterface ||
		res.IPs[0].Gateway.String() != "10.98.0.1" || len(res.Routes) != 1 || res.DNS.Nameservers[0] != "10.98.0.1" {
		t.Errorf("result %+v of endpoint %+v", res, e)
	}
	if e.Name != "shop" || e.Labels["k8s-namespace"] != "front" || string(e.Container) != "cni/"+rt.ContainerID {
		t.Errorf("identity: %+v", e)
	}
}

// run executes the plugin as a runtime does.
func run(t *testing.T, bin, stdin string, env ...string) (out map[string]any, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "quantum-cni"))
	cmd.Env = append([]string{"QUANTUM_CNI_SOCKET=" + os.Getenv("QUANTUM_CNI_SOCKET")}, env...)
	cmd.Stdin = strings.NewReader(stdin)
	b, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if len(bytes.TrimSpace(b)) > 0 {
		if err := json.Unmarshal(b, &out); err != nil {
			t.Fatalf("output %q: %v", b, err)
		}
	}
	return out, cmd.ProcessState.ExitCode()
}

// TestExample adds by the configuration that people copy.
func TestExample(t *testing.T) {
	_, bin := start(t)
	l, err := libcni.ConfListFromFile(filepath.Join("..", "..", "examples", "cni", "10-tero.conflist"))
	if err != nil {
		t.Fatal(err)
	}
	c := libcni.NewCNIConfigWithCacheDir([]string{bin}, t.TempDir(), nil)
	rt := &libcni.RuntimeConf{ContainerID: "Example_1", NetNS: nettest.New(t).Path(), IfName: "eth0"}
	if _, err := c.AddNetworkList(t.Context(), l, rt); err != nil {
		t.Fatal(err)
	}
	if err := c.DelNetworkList(t.Context(), l, rt); err != nil {
		t.Fatal(err)
	}
}

func TestErrorsHaveTheSpecsCodes(t *testing.T) {
	m, bin := start(t)
	good := `{"cniVersion":"1.1.0","name":"tero","type":"quantum-cni"}`
	id := []string{"CNI_CONTAINERID=c1", "CNI_IFNAME=eth0", "CNI_NETNS=/nowhere", "CNI_PATH=/"}
	for _, c := range []struct {
		name, stdin string
		env         []string
		code        float64
	}{
		{"not JSON", "{", append(id, "CNI_COMMAND=ADD"), 6},
		{"other version", `{"cniVersion":"0.2.0","name":"tero"}`, append(id, "CNI_COMMAND=ADD"), 1},
		{"no version", `{"name":"tero"}`, append(id, "CNI_COMMAND=ADD"), 1},
		{"no such verb", good, append(id, "CNI_COMMAND=JUMP"), 4},
		{"no container", good, []string{"CNI_COMMAND=ADD", "CNI_IFNAME=eth0"}, 4},
		{"bad container", good, []string{"CNI_COMMAND=DEL", "CNI_IFNAME=eth0", "CNI_CONTAINERID=a/../b"}, 4},
		{"bad interface", good, []string{"CNI_COMMAND=DEL", "CNI_IFNAME=a/b", "CNI_CONTAINERID=c1"}, 4},
		{"no namespace", good, append(id, "CNI_COMMAND=ADD"), 4},
		{"bad args", good, append(id, "CNI_COMMAND=ADD", "CNI_ARGS=what", "CNI_NETNS=/proc/self/ns/net"), 4},
		{"unknown container", good, append(id, "CNI_COMMAND=CHECK", "CNI_NETNS=/proc/self/ns/net"), 3},
		{"the node's namespace", good, append(id, "CNI_COMMAND=ADD", "CNI_NETNS=/proc/self/ns/net"), 7},
		{"no such network", `{"cniVersion":"1.1.0","name":"tero","network":"nowhere"}`, append(id, "CNI_COMMAND=STATUS"), 50},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, code := run(t, bin, c.stdin, c.env...)
			if code != 1 || out["code"] != c.code || out["msg"] == "" || out["cniVersion"] == "" {
				t.Errorf("exit %d, %v; want code %v", code, out, c.code)
			}
		})
	}
	if es := m.Endpoints(""); len(es) != 0 {
		t.Errorf("left: %+v", es)
	}
}

func TestWithoutAManager(t *testing.T) {
	bin := build(t)
	t.Setenv("QUANTUM_CNI_SOCKET", filepath.Join(t.TempDir(), "none.sock"))
	if out, code := run(t, bin, "{}", "CNI_COMMAND=VERSION"); code != 0 || len(out["supportedVersions"].([]any)) != 3 {
		t.Errorf("VERSION: exit %d, %v", code, out)
	}
	if out, code := run(t, bin, "{}", "CNI_COMMAND=STATUS"); code != 1 || out["code"] != 50.0 {
		t.Errorf("STATUS: exit %d, %v", code, out)
	}
	if out, code := run(t, bin, "{}", "CNI_COMMAND=ADD"); code != 1 || out["code"] != 11.0 {
		t.Errorf("ADD: exit %d, %v", code, out)
	}
}

// TestChained gives the plugin the result of one before it.
func TestChained(t *testing.T) {
	_, bin := start(t)
	ns := nettest.New(t)
	stdin := `{"cniVersion":"1.0.0","name":"tero","type":"quantum-cni","prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"net1","sandbox":"/x"}],"ips":[{"address":"192.0.2.1/24","interface":0}],"dns":{}}}`
	out, code := run(t, bin, stdin, "CNI_COMMAND=ADD", "CNI_CONTAINERID=c1", "CNI_IFNAME=eth0", "CNI_NETNS="+ns.Path())
	if code != 0 || len(out["interfaces"].([]any)) != 3 || len(out["ips"].([]any)) != 2 || out["ips"].([]any)[1].(map[string]any)["interface"] != 2.0 {
		t.Errorf("exit %d, %v", code, out)
	}
}

// TestForeignRequests writes what no plugin would.
func TestForeignRequests(t *testing.T) {
	m, _ := start(t)
	for name, b := range map[string][]byte{
		"nothing":          nil,
		"half a length":    {1, 0},
		"a length alone":   {10, 0, 0, 0},
		"too long":         {255, 255, 255, 255},
		"no environment":   {3, 0, 0, 0, 'a', 'b', 'c'},
		"empty everything": append([]byte{7, 0, 0, 0}, make([]byte, 7)...),
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("unix", m.CNISocket())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Write(b); err != nil {
				t.Fatal(err)
			}
			if err := c.(*net.UnixConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			answer := make([]byte, 512)
			if n, err := c.Read(answer); err == nil && answer[0] == 0 {
				t.Errorf("succeeded: %q", answer[:n])
			}
		})
	}
	if es := m.Endpoints(""); len(es) != 0 {
		t.Errorf("left: %+v", es)
	}
}

// hungry is a listener that has no descriptor left for the first callers.
type hungry struct {
	net.Listener
	refuse atomic.Int32
}

func (h *hungry) Accept() (net.Conn, error) {
	if h.refuse.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return h.Listener.Accept()
}

func TestTheSocketOutlivesALackOfDescriptors(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "cni.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	h := &hungry{Listener: l}
	h.refuse.Store(2)
	s := cni.Serve(t.Context(), h, nil, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	cmd := exec.CommandContext(t.Context(), filepath.Join(build(t), "quantum-cni"))
	cmd.Env = []string{"QUANTUM_CNI_SOCKET=" + socket, "CNI_COMMAND=GC"}
	cmd.Stdin = strings.NewReader(`{"cniVersion":"9.9.9"}`)
	out, err := cmd.Output()
	if !strings.Contains(string(out), "cniVersion") || strings.Contains(string(out), "reach") {
		t.Errorf("the answer is %s, %v, want that the version is not supported", out, err)
	}
}

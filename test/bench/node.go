package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/client"
	"tero.internal/test/testnode"
)

// node is a node with a signed image of a static true, and a connection to it.
type node struct {
	*testnode.Node
	client *client.Client
	launch int
}

// startNode starts a node that keeps so many sandboxes ready.
func startNode(ctx context.Context, bin, program string, pool int) (_ *node, err error) {
	n := &node{Node: testnode.New(bin, "bench"+strconv.Itoa(pool), "--pool="+strconv.Itoa(pool), "--log-level=warn")}
	if err := errors.Join(n.leaveMemory(), n.Clear(ctx)); err != nil {
		return nil, fmt.Errorf("clear up after an earlier run: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.end(ctx))
		}
	}()
	if err := n.MakeNetNS(ctx); err != nil {
		return nil, err
	}
	if err := n.runInMemory(); err != nil {
		return nil, err
	}
	if err := n.Start(ctx); err != nil {
		return nil, err
	}
	if err := n.importImage(ctx, program); err != nil {
		return nil, err
	}
	n.client, err = client.Dial(client.Options{Socket: n.Socket()})
	return n, err
}

// importImage makes the image around the program, signs it and imports it.
func (n *node) importImage(ctx context.Context, program string) error {
	b, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	root, trust := filepath.Join(n.WorkDir(), "root"), filepath.Join(n.StateDir(), "trust", "images")
	if err := errors.Join(os.MkdirAll(root, 0o755), os.MkdirAll(trust, 0o700)); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, "true"), b, 0o755); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"image", "keygen", "--plain", "--prefix", "bench"},
		{"image", "build", "-t", "true:v1", "--layout", "images", "--entrypoint", "/true", "root"},
		{"image", "sign", "--key", "bench.key", "--layout", "images", "true:v1"},
		{"image", "import", "images"},
	} {
		if args[1] == "import" {
			key, err := os.ReadFile(filepath.Join(n.WorkDir(), "bench.pub"))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(trust, "bench.pub"), key, 0o600); err != nil {
				return err
			}
		}
		if r := n.Tero(ctx, args...); r.Code != 0 {
			return fmt.Errorf("tero %v: %s", args, r.Stderr)
		}
	}
	return nil
}

func (n *node) end(ctx context.Context) error {
	var err error
	if n.client != nil {
		err = n.client.Close()
	}
	ctx = context.WithoutCancel(ctx)
	return errors.Join(err, n.Down(ctx), n.leaveMemory(), n.Clear(ctx))
}

// runInMemory puts the run directory on a file system in memory, as /run is on
// hosts with an init system; the peers' state is on one too.
func (n *node) runInMemory() error {
	if err := os.MkdirAll(n.RunDir(), 0o700); err != nil {
		return err
	}
	return mountMemory(n.RunDir())
}

// leaveMemory takes it away; it is nil when there is none.
func (n *node) leaveMemory() error {
	err := unix.Unmount(n.RunDir(), unix.MNT_DETACH)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func mountMemory(dir string) error {
	return os.NewSyscallError("mount", unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=512m,mode=700"))
}

// request launches a container over the connection that is there, and gives the
// time from the request to the exec, by the clock that both sides have.
func (n *node) request(ctx context.Context) (time.Duration, error) {
	n.launch++
	began := time.Now()
	r, err := n.client.Runtime.Run(ctx, &runtimev1.RunRequest{Spec: &runtimev1.ContainerSpec{
		Name: fmt.Sprintf("true-%d", n.launch), Image: "true:v1", Network: "none", AutoRemove: true,
	}})
	if err != nil {
		return 0, err
	}
	return r.GetContainer().GetStarted().AsTime().Sub(began), nil
}

// settle waits until the node has removed every container.
func (n *node) settle(ctx context.Context) error {
	for {
		r, err := n.client.Runtime.ListContainers(ctx, &runtimev1.ListContainersRequest{All: true})
		if err != nil || len(r.GetContainers()) == 0 {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// command runs "tero run --rm" to its end.
func (n *node) command(ctx context.Context) error {
	if r := n.Tero(ctx, "run", "--rm", "--network", "none", "true:v1"); r.Code != 0 {
		return fmt.Errorf("tero run ended with code %d: %s", r.Code, r.Stderr)
	}
	return nil
}

// buildTrue builds the program that every container runs: the least there is, so
// that what starts it is what is measured.
func buildTrue(ctx context.Context, dir string) (string, error) {
	source, program := filepath.Join(dir, "true.c"), filepath.Join(dir, "true")
	if err := os.WriteFile(source, []byte("int main(void) { return 0; }\n"), 0o600); err != nil {
		return "", err
	}
	if out, err := exec.CommandContext(ctx, "gcc", "-static", "-O2", "-s", "-o", program, source).CombinedOutput(); err != nil {
		return "", fmt.Errorf("gcc: %w: %s", err, out)
	}
	return program, nil
}

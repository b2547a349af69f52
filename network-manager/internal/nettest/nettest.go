// Package nettest gives tests a network of their own: the test process in a
// fresh network namespace, and namespaces like those of containers.
package nettest

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

const marker = "TERO_TEST_IN_NETNS"

// Main runs the tests with the whole process in a new network namespace, which
// ends with it, so that nothing that a test does can touch the host. Call it
// from TestMain; it does not return.
func Main(m *testing.M) {
	if os.Getenv(marker) == "" {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			fmt.Fprintln(os.Stderr, "tests of the network need root:", err)
			os.Exit(1)
		}
		// The thread that executes is the one that is left, with its namespace.
		env := append(os.Environ(), marker+"=1")
		err := unix.Exec("/proc/self/exe", os.Args, env)
		fmt.Fprintln(os.Stderr, "execute the tests again:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// Namespace is a network namespace such as a container has.
type Namespace struct {
	file *os.File
	jobs chan func()
	done chan struct{}
}

// New makes a namespace that ends with the test.
func New(t testing.TB) *Namespace {
	t.Helper()
	n := &Namespace{jobs: make(chan func()), done: make(chan struct{})}
	ready := make(chan error, 1)
	go n.run(ready)
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.End)
	return n
}

// run is a thread in the namespace. It is never unlocked, so that the thread
// ends with the goroutine and takes nobody else into the namespace.
func (n *Namespace) run(ready chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() { // the main thread is what /proc/self shows
		go n.run(ready)
		<-n.done
		runtime.UnlockOSThread()
		return
	}
	defer close(n.done)
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		ready <- err
		return
	}
	f, err := os.Open("/proc/thread-self/ns/net")
	n.file = f
	ready <- err
	for j := range n.jobs {
		j()
	}
}

// Path is where the namespace can be opened.
func (n *Namespace) Path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd())
}

// Do runs f on a thread inside. Sockets that f makes stay inside.
func (n *Namespace) Do(f func()) {
	done := make(chan struct{})
	n.jobs <- func() { defer close(done); f() }
	<-done
}

// End lets go of the namespace; the kernel removes it and its interfaces when
// no socket is left in it. Ending twice does nothing.
func (n *Namespace) End() {
	if n.file == nil {
		return
	}
	close(n.jobs)
	<-n.done
	_ = n.file.Close()
	n.file = nil
}

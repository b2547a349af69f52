// Command quantum-cni is a CNI plugin (versions 0.4.0, 1.0.0, 1.1.0) that hands
// each verb to the Network Manager on its socket and prints the answer. The
// socket is QUANTUM_CNI_SOCKET, or /run/quantum/cni.sock.
//
// It does not look at what it carries: a runtime waits for this program each
// time it starts or ends a container, so it must start and end at once.
package main

import (
	"errors"
	"os"
	"syscall"

	"tero.internal/network-manager/cni/frame"
)

const defaultSocket = "/run/quantum/cni.sock"

// versions is the answer to VERSION when no manager can be asked.
const versions = `{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}`

// Error codes of the CNI SPEC, section 5 "Error".
const (
	codeIO          = "5"
	codeTryAgain    = "11"
	codeUnavailable = "50"
)

func main() {
	socket := os.Getenv("QUANTUM_CNI_SOCKET")
	if socket == "" {
		socket = defaultSocket
	}
	request, err := gather()
	if err != nil {
		fail(codeIO, "standard input cannot be read", err.Error())
	}
	fd, err := connect(socket)
	if err != nil {
		unreachable(socket, err)
	}
	if err := send(fd, request, openNamespace()); err != nil {
		fail(codeTryAgain, "the network manager did not take the request", err.Error())
	}
	answer, err := readAll(fd, make([]byte, 0, 4096))
	if err != nil || len(answer) == 0 {
		fail(codeTryAgain, "the network manager ended before it answered", socket)
	}
	finish(int(answer[0]), answer[1:])
}

// gather makes the request of environment and standard input.
func gather() ([]byte, error) {
	request := make([]byte, frame.LengthBytes, 8192)
	for _, name := range frame.Names {
		request = append(request, os.Getenv(name)...)
		request = append(request, 0)
	}
	request, err := readAll(0, request)
	if err != nil {
		return nil, err
	}
	frame.PutLength(request, len(request)-frame.LengthBytes)
	return request, nil
}

func connect(socket string) (int, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	return fd, syscall.Connect(fd, &syscall.SockaddrUnix{Name: socket})
}

// openNamespace gives the descriptor of the container's namespace, or -1: the
// runtime may have removed it already, and only some verbs need it.
func openNamespace() int {
	path := os.Getenv("CNI_NETNS")
	if path == "" {
		return -1
	}
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return fd
}

// send writes the request; the namespace goes with its first byte.
func send(fd int, request []byte, namespace int) error {
	var rights []byte
	if namespace >= 0 {
		rights = syscall.UnixRights(namespace)
	}
	for len(request) > 0 {
		n, err := syscall.SendmsgN(fd, request, rights, nil, syscall.MSG_NOSIGNAL)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		request, rights = request[n:], nil
	}
	return nil
}

// readAll appends what fd gives to b.
func readAll(fd int, b []byte) ([]byte, error) {
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := syscall.Read(fd, b[len(b):cap(b)])
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return b, err
		case n == 0:
			return b, nil
		}
		b = b[:len(b)+n]
	}
}

func unreachable(socket string, err error) {
	switch os.Getenv("CNI_COMMAND") {
	case "VERSION":
		finish(0, []byte(versions))
	case "STATUS":
		fail(codeUnavailable, "the network manager is not reachable", socket+": "+err.Error())
	default:
		fail(codeTryAgain, "the network manager is not reachable; start quantum-api or terod", socket+": "+err.Error())
	}
}

// fail prints an error of the CNI SPEC. The texts hold nothing that JSON would
// have to escape, but for paths, in which such characters are replaced.
func fail(code, message, details string) {
	safe := []byte(details)
	for i, c := range safe {
		if c < ' ' || c == '"' || c == '\\' {
			safe[i] = '?'
		}
	}
	finish(1, []byte(`{"cniVersion":"1.1.0","code":`+code+`,"msg":"`+message+`","details":"`+string(safe)+`"}`))
}

func finish(code int, output []byte) {
	for len(output) > 0 {
		n, err := syscall.Write(1, output)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			os.Exit(1)
		}
		output = output[max(n, 0):]
	}
	os.Exit(code)
}

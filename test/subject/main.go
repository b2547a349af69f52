// Subject is what tests run in containers: a program that counts, echoes and
// idles as it is told, or that does its worst to the node it runs on.
//
//	subject count CODE   a line on each stream every few milliseconds, echoes
//	                     lines of its input, ends with CODE when told to
//	subject idle         does nothing until it is told to end
//	subject echo         gives every line of its input back
//	subject deaf         ignores every signal that it can
//	subject env          how many entries and bytes of environment it has
//	subject flood BYTES  writes that much as fast as it can
//	subject forks        makes processes that make processes
//	subject memory       takes memory until it has none
//	subject files        opens files until it may not
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

func main() {
	if len(os.Args) < 2 {
		fail("no command; see the source")
	}
	argument := 0
	if len(os.Args) > 2 {
		n, err := strconv.Atoi(os.Args[2])
		if err != nil {
			fail(err.Error())
		}
		argument = n
	}
	switch os.Args[1] {
	case "count":
		count(argument)
	case "idle":
		ended := make(chan os.Signal, 1)
		signal.Notify(ended, syscall.SIGTERM)
		<-ended
	case "echo":
		if _, err := io.Copy(os.Stdout, os.Stdin); err != nil {
			fail(err.Error())
		}
	case "deaf":
		signal.Ignore()
		fmt.Println("deaf")
		for { // an empty select is a deadlock to Go when there is nothing else
			time.Sleep(time.Hour) //nolint:forbidigo // it waits for SIGKILL
		}
	case "env":
		size := 0
		for _, e := range os.Environ() {
			size += len(e) + 1
		}
		fmt.Println(len(os.Environ()), size)
	case "flood":
		flood(argument)
	case "forks":
		forks()
	case "memory":
		memory()
	case "files":
		files()
	default:
		fail("unknown command " + os.Args[1])
	}
}

func fail(why string) {
	fmt.Fprintln(os.Stderr, "subject:", why)
	os.Exit(1)
}

// count writes "tick N" and "tock N" until it is told to end, and says "end N"
// then. Nothing that was written may be missing, nor come twice.
func count(code int) {
	const every = 5 * time.Millisecond
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	lines := make(chan string)
	go func() {
		for s := bufio.NewScanner(os.Stdin); s.Scan(); {
			lines <- s.Text()
		}
	}()
	tick := time.NewTicker(every)
	for n := 0; ; {
		select {
		case <-tick.C:
			fmt.Fprintln(os.Stdout, "tick", n)
			fmt.Fprintln(os.Stderr, "tock", n)
			n++
		case line := <-lines:
			fmt.Fprintln(os.Stdout, "echo", line)
		case <-ended:
			fmt.Fprintln(os.Stdout, "end", n)
			os.Exit(code)
		}
	}
}

// flood writes lines of 64 bytes that are numbered, so that a gap shows.
func flood(size int) {
	const line = 64
	w := bufio.NewWriterSize(os.Stdout, 64<<10)
	for n := range size / line {
		if _, err := fmt.Fprintf(w, "%063d\n", n); err != nil {
			fail(err.Error())
		}
	}
	if err := w.Flush(); err != nil {
		fail(err.Error())
	}
}

// forks makes processes that make processes until that is refused, and they
// try on. Go would end for want of a thread: from the first process on there
// are only system calls.
func forks() {
	for {
		pid, errno := fork()
		if errno != 0 {
			fmt.Println("held:", errno)
			bomb()
		}
		if pid == 0 {
			bomb()
		}
	}
}

//go:norace
//go:nosplit
func bomb() {
	pause := syscall.Timespec{Nsec: 1_000_000}
	for {
		if _, errno := fork(); errno != 0 {
			_, _, _ = syscall.RawSyscall6(syscall.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&pause)), 0, 0, 0, 0, 0)
		}
	}
}

//go:norace
//go:nosplit
func fork() (uintptr, syscall.Errno) {
	pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	return pid, errno
}

// memory takes memory and touches it.
func memory() {
	var kept [][]byte
	for {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		kept = append(kept, b)
		if len(kept) == 1 {
			fmt.Println("taking memory")
		}
	}
}

// files opens files until the kernel refuses, says how many, and holds them.
func files() {
	limit := syscall.Rlimit{}
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		fail(err.Error())
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		fail(err.Error())
	}
	var kept []int
	for {
		fd, err := syscall.Open("/dev/null", syscall.O_RDONLY, 0)
		if err != nil {
			fmt.Println("held:", err, len(kept))
			break
		}
		kept = append(kept, fd)
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	<-ended
}

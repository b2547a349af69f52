// Command watch is what the tests look into: it floods its output, holds, or
// works against who copies its files.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
)

func check(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func main() {
	args := os.Args[1:]
	if len(args) == 0 {
		args = []string{"hold"}
	}
	switch args[0] {
	case "flood": // BYTES: lines with their numbers
		most, _ := strconv.Atoi(args[1])
		w := bufio.NewWriterSize(os.Stdout, 64<<10)
		written := 0
		for i := 0; written < most; i++ {
			n, err := fmt.Fprintf(w, "%012d one of very many lines that somebody wants to see, every one of them\n", i)
			if err != nil {
				os.Exit(1)
			}
			written += n
		}
		if w.Flush() != nil {
			os.Exit(1)
		}
	case "write": // PATH TEXT
		check(os.WriteFile(args[1], []byte(args[2]), 0o600))
	case "read": // PATH
		b, err := os.ReadFile(args[1])
		check(err)
		_, err = os.Stdout.Write(b)
		check(err)
	case "fill": // makes what is copied, then works against whoever copies
		check(os.MkdirAll("/tmp/tree/sub/deep", 0o750))
		check(os.WriteFile("/tmp/tree/file", []byte("of the container\n"), 0o640))
		check(os.WriteFile("/tmp/tree/setuid", []byte("x"), 0o755))
		check(os.Chmod("/tmp/tree/setuid", 0o4755|os.ModeSetuid))
		check(os.Link("/tmp/tree/file", "/tmp/tree/sub/again"))
		check(os.Symlink("/etc/shadow", "/tmp/tree/sub/link"))
		check(syscall.Mkfifo("/tmp/tree/pipe", 0o600))
		// The path args[1] of the node, as the container may have it itself.
		check(os.MkdirAll("/tmp/real"+args[1], 0o777))
		check(os.WriteFile("/tmp/real"+args[1]+"/secret", []byte("inside"), 0o666))
		check(os.Mkdir("/tmp/race", 0o777))
		check(os.Symlink("/", "/tmp/root"))
		fmt.Println("filled")
		for { // a folder one moment, a link to the root the next (CVE-2018-15664)
			check(os.Rename("/tmp/real", "/tmp/race/swap"))
			check(os.Rename("/tmp/race/swap", "/tmp/real"))
			check(os.Rename("/tmp/root", "/tmp/race/swap"))
			check(os.Rename("/tmp/race/swap", "/tmp/root"))
		}
	case "hold":
		fmt.Println("holding")
		time.Sleep(time.Hour)
	}
}

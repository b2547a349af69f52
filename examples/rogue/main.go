// Command rogue does nothing but say that it ran. Its image is never signed,
// so a platform that keeps its word never runs it: to see its line in a log
// means that the platform failed.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintf(os.Stdout, "rogue: I ran as uid %d, pid %d; nothing stopped me\n", os.Getuid(), os.Getpid())
}

// Command tero is TERO's command line: it runs containers and proves what ran.
// It is only the front, which starts at once: see internal/front. All commands
// are in tero-cli, which it becomes for everything but a plain "tero run".
package main

import (
	"os"

	"tero.internal/cmd/tero/internal/front"
)

func main() { os.Exit(front.Main(os.Args[1:])) }

// Command cat copies its standard input to its standard output, and first
// says on standard error whether that is a terminal, and of which size.
package main

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
)

func main() {
	if w, h, err := term.GetSize(0); err == nil {
		fmt.Fprintf(os.Stderr, "terminal of %d rows and %d columns\n", h, w)
	} else {
		fmt.Fprintln(os.Stderr, "no terminal")
	}
	if _, err := io.Copy(os.Stdout, os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("end of input")
}

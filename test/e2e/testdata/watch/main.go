// Command watch is what the tests look into: it floods its output, holds, or
// works against who copies its files.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"time"
)

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
	case "hold":
		fmt.Println("holding")
		time.Sleep(time.Hour)
	}
}

// Command client fetches a URL for demonstrations: every second, or once with
// -once, where the exit code tells whether it got through. A fetch that is
// refused, or not answered within the timeout, is an error on a line of its own.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	once := flag.Bool("once", false, "fetch once; exit code 1 when that fails")
	timeout := flag.Duration("timeout", 3*time.Second, "bound on each fetch")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: client [-once] [-timeout DURATION] URL")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	os.Exit(run(flag.Arg(0), *once, *timeout))
}

// run fetches until a signal comes; it gives the exit code.
func run(url string, once bool, timeout time.Duration) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	// Each fetch makes a connection of its own: policy decides on connections.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: timeout}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		began := time.Now()
		line, err := fetch(ctx, client, url)
		took := time.Since(began).Round(100 * time.Microsecond)
		switch {
		case ctx.Err() != nil:
			return 0
		case err != nil:
			fmt.Fprintf(os.Stdout, "FAILED %s after %s: %v\n", url, took, err)
		default:
			fmt.Fprintf(os.Stdout, "OK %s in %s: %s\n", url, took, line)
		}
		if once {
			if err != nil {
				return 1
			}
			return 0
		}
		select {
		case <-ctx.Done():
			return 0
		case <-tick.C:
		}
	}
}

// fetch gives the status and the first line of the answer.
func fetch(ctx context.Context, client *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", fmt.Errorf("request: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return "", fmt.Errorf("read the answer: %w", err)
	}
	line, _, _ := strings.Cut(string(body), "\n")
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", resp.Status, line)
	}
	return resp.Status + ": " + line, nil
}

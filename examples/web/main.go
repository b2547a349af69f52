// Command web is an HTTP server for demonstrations: it greets with its host
// name on port 8080, logs each request, and ends gracefully on SIGTERM. With
// -check it asks a server on the same address whether it answers.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	addr := flag.String("addr", ":8080", "address to serve on")
	check := flag.Bool("check", false, "ask the server on addr whether it answers, and end")
	flag.Parse()
	if *check {
		os.Exit(healthy(*addr))
	}
	log := slog.New(slog.NewTextHandler(os.Stdout, nil))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, *addr, log); err != nil {
		log.ErrorContext(ctx, "web failed", slog.String("error", err.Error()))
		os.Exit(1)
	}
}

// healthy gives 0 when the server answers, 1 when not, and says which.
func healthy(addr string) int {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "address:", err)
		return 1
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+port+"/", http.NoBody)
	if err != nil {
		fmt.Fprintln(os.Stderr, "address:", err)
		return 1
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		fmt.Fprintln(os.Stderr, "unhealthy:", err)
		return 1
	}
	_ = resp.Body.Close()
	fmt.Println("healthy:", resp.Status)
	return 0
}

// run serves until ctx ends, then lets open requests finish.
func run(ctx context.Context, addr string, log *slog.Logger) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	srv := &http.Server{
		ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			log.InfoContext(r.Context(), "request", slog.String("method", r.Method),
				slog.String("path", r.URL.Path), slog.String("from", r.RemoteAddr))
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			fmt.Fprintf(w, "hello from %s\n", host)
		}),
	}
	log.InfoContext(ctx, "serving", slog.String("address", l.Addr().String()))
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	log.InfoContext(ctx, "ending")
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err = srv.Shutdown(grace)
	if serr := <-served; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	return err
}

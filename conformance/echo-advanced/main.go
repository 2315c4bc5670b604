// Command echo-advanced is what the mesh tests of the conformance suite run in a pod: a server that answers with what it saw of a
// request, and, under the name `client`, a program that sends requests and prints what came back. Under the name `load` it is steady
// traffic for our own tests.
//
// The first two speak the lines that sigs.k8s.io/gateway-api/conformance/utils/echo parses: `Field=value`, one field a line.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, filepath.Base(os.Args[0]), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, name string, arguments []string) error {
	switch name {
	case "client":
		calls, err := parseCalls(arguments)
		if err != nil {
			return err
		}
		return calls.run(ctx, os.Stdout)
	case "load":
		load, err := parseLoad(arguments)
		if err != nil {
			return err
		}
		return load.run(ctx, os.Stdout)
	}
	settings, err := parseSettings(arguments)
	if err != nil {
		return err
	}
	server, err := start(settings)
	if err != nil {
		return err
	}
	return server.wait(ctx)
}

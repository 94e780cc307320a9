//go:build linux

// Program cniblocks is for people: it shows what stands on a node for its pods, and takes away what this project made.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/base/nearest"
)

// command is a subcommand. run gets the arguments behind its name and returns the exit status: 0, 1 for a failure that it
// reported, 2 for a wrong call.
type command struct {
	name, brief string
	run         func(ctx context.Context, args []string, out, errs io.Writer) int
}

// commands are the subcommands, in the order of the help text.
func commands() []command {
	return []command{
		{"show", "draw what is on this node, and say whose it is", show},
		{"qos", "show and change the rates at which pods receive and send", qos},
		{"cleanup", "remove what cniblocks made, of one network or of all", cleanup},
		{"agent", "keep this node in step with the other nodes", agentCommand},
		{"status", "say how the agents of this node do", statusCommand},
		{"overlay", "apply the peers file to this node, or take the overlay away", overlayCommand},
		{"dhcp", "keep the leases of pods whose addresses come from a DHCP server", dhcpCommand},
		{"install", "put the plugins into a runtime's directory", install},
		{"env", "print this node's range as subnet.env, or as options of a Docker daemon", env},
		{"wireguard", "print this machine's public key in a network", wireguard},
		{"completion", "print what completes the command line in bash, zsh or fish", completion},
		{"man", "write the manual pages into a directory", man},
		{"version", "print the version", version},
	}
}

const (
	failed = 1
	misuse = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

func run(ctx context.Context, args []string, out, errs io.Writer) int {
	if len(args) == 0 {
		usage(errs)
		return misuse
	}
	name, args := args[0], args[1:]
	switch name {
	case "help", "-h", "-help", "--help":
		return help(ctx, args, out, errs)
	case "-version", "--version":
		name = "version"
	}
	if c, ok := find(name, errs); ok {
		return c.run(ctx, args, out, errs)
	}
	return misuse
}

func find(name string, errs io.Writer) (command, bool) {
	all := commands()
	if i := slices.IndexFunc(all, func(c command) bool { return c.name == name }); i >= 0 {
		return all[i], true
	}
	names := func(yield func(string) bool) {
		for _, c := range all {
			if !yield(c.name) {
				return
			}
		}
	}
	fmt.Fprintf(errs, "cniblocks: there is no command %q", name)
	if near, ok := nearest.Of(name, names); ok {
		fmt.Fprintf(errs, "; did you mean %q?\n", near)
	} else {
		fmt.Fprintf(errs, "; 'cniblocks help' lists them\n")
	}
	return command{}, false
}

// help is that of the program, or of one of its commands.
func help(ctx context.Context, args []string, out, errs io.Writer) int {
	if len(args) == 0 {
		usage(out)
		return 0
	}
	if c, ok := find(args[0], errs); ok {
		return c.run(ctx, []string{"--help"}, out, errs)
	}
	return misuse
}

func usage(w io.Writer) {
	var list strings.Builder
	for _, c := range commands() {
		fmt.Fprintf(&list, "  %-10s %s\n", c.name, c.brief)
	}
	fmt.Fprintf(w, `cniblocks looks at a node whose pods are attached by CNI plugins, and cleans up after them.

Usage: cniblocks COMMAND [OPTIONS]

%s
Examples:

  sudo cniblocks show                              bridges, pods, addresses, SNAT, routes of this node
  sudo cniblocks show pods -o json                 one network, for a program to read
  sudo cniblocks cleanup --network pods --dry-run  what would go

'cniblocks COMMAND --help' teaches more. The plugins themselves are called by a container runtime; see
'/opt/cni/bin/bridge --help'.
`, list.String())
}

//go:build linux

// Program dhcp is the CNI IPAM plugin "dhcp", and with the argument "daemon" the daemon that it asks. It is a program of its
// own, since its protocol, that of the reference's daemon, weighs more than all other plugins together.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/base/version"
	"github.com/cniblocks/cniblocks/plugins/dhcp"
)

const help = `dhcp: a CNI plugin of cniblocks, which gets addresses from a DHCP server of the network that a container is attached to.

Other plugins call it: "ipam": {"type": "dhcp"}. A daemon keeps the leases:

  sudo dhcp daemon               in the foreground; 'dhcp daemon --help' lists its options
  sudo cniblocks dhcp            the same
  sudo systemctl enable --now cniblocks-dhcp.socket

docs/plugins/dhcp.md tells more.
`

func main() {
	args := os.Args[1:]
	switch {
	case len(args) > 0 && args[0] == "daemon":
		os.Exit(daemon(args[1:]))
	case len(args) == 1 && args[0] == "--version":
		fmt.Printf("CNI dhcp plugin, cniblocks %s\nCNI %s to %s\n", version.String(), cni.Versions[0], cni.Versions[len(cni.Versions)-1])
	case len(args) == 1 && (args[0] == "--help" || args[0] == "-h"):
		fmt.Print(help)
	case os.Getenv("CNI_COMMAND") == "":
		fmt.Fprint(os.Stderr, help)
		os.Exit(1)
	default:
		cni.Main(dhcp.Plugin{}, nil)
	}
}

func daemon(args []string) int {
	f := flag.NewFlagSet("dhcp daemon", flag.ExitOnError)
	var s dhcp.Settings
	s.Declare(f)
	_ = f.Parse(args) // it exits
	err := s.Check()
	if err == nil && f.NArg() > 0 {
		err = fmt.Errorf("%q is one word too many", f.Arg(0))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "dhcp daemon: %v; 'dhcp daemon --help' explains\n", err)
		return 2
	}
	s.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := s.Run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "dhcp daemon:", err)
		return 1
	}
	return 0
}

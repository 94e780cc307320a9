//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/cniblocks/cniblocks/plugins/dhcp"
)

const dhcpText = `Usage: cniblocks dhcp [OPTIONS]

Keeps the leases of pods whose addresses come from a DHCP server ("ipam": {"type": "dhcp"}): gets them when a pod is
attached, renews them, and gives them back. When it is stopped the leases stay, and the next one goes on with them.
It has the socket, the protocol and the options of the reference's daemon ('dhcp daemon').

  sudo cniblocks dhcp
  sudo systemctl enable --now cniblocks-dhcp.socket

docs/plugins/dhcp.md tells more.
`

// dhcpCommand runs the daemon of the plugin dhcp.
func dhcpCommand(ctx context.Context, args []string, out, errs io.Writer) int {
	o := newOptions("dhcp", dhcpText)
	var s dhcp.Settings
	s.Declare(o.FlagSet)
	if _, status, done := o.read(args, 0, out, errs); done {
		return status
	}
	if err := s.Check(); err != nil {
		fmt.Fprintf(errs, "cniblocks dhcp: %v; 'cniblocks dhcp --help' explains\n", err)
		return misuse
	}
	s.Log = slog.New(slog.NewTextHandler(errs, nil))
	if err := s.Run(ctx); err != nil {
		return complain(errs, "dhcp", err)
	}
	return 0
}

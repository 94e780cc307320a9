//go:build linux

package main

import (
	"context"
	"fmt"
	"io"

	"github.com/cniblocks/cniblocks/overlay"
)

const wireguardText = `Usage: cniblocks wireguard pubkey NETWORK [OPTIONS]

Prints the public key of this machine in a network, for "publicKey" in the peers file. The private key is made the first
time, in /var/lib/cniblocks/NETWORK/wireguard.key, readable by root only; it survives reboots and is never printed.

  sudo cniblocks wireguard pubkey pods
`

func wireguard(_ context.Context, args []string, out, errs io.Writer) int {
	o := newOptions("wireguard", wireguardText)
	dir := o.String("data-dir", overlay.DefaultKeyDir, "`DIR` that holds the networks' keys")
	words, status, done := o.read(args, 2, out, errs)
	if done {
		return status
	}
	if len(words) != 2 || words[0] != "pubkey" {
		fmt.Fprintln(errs, "cniblocks wireguard: want 'pubkey' and the name of the network; 'cniblocks wireguard --help' explains")
		return misuse
	}
	key, err := overlay.WireGuard{KeyDir: *dir}.PublicKey(words[1])
	if err != nil {
		return complain(errs, "wireguard", err)
	}
	fmt.Fprintln(out, key)
	return 0
}

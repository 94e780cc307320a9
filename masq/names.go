package masq

import (
	"strings"

	"github.com/cniblocks/cniblocks/internal/kernel/nft"
)

const (
	mark      = "cniblocks" // the table, and the first word of every comment
	maxName   = 64
	maxLabel  = 100
	chainBase = "CNIB-"
	postChain = "CNIB-POSTROUTING"
	forwChain = "CNIB-FORWARD"
)

// plainName reports whether the name can be part of an nft identifier.
func plainName(s string) bool {
	return s != "" && len(s) <= maxName && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_' || r == '.' || r == '-')
	}) < 0
}

// label is a name as it stands in a comment of either backend.
func label(name string) string { return nft.Label(name, maxLabel) }

// commentFor marks the rules of a network.
func commentFor(network string) string { return mark + " " + label(network) }

// chainFor is the iptables chain of a network. Chains have at most 28 characters.
func chainFor(network string) string { return chainBase + nft.Hash(network) }

// setFor is the nft set of a network for one purpose. The purpose before the name keeps it from being a keyword of the
// nft program; a slash is in no name of a CNI network.
func setFor(purpose, network string) string {
	if plainName(network) {
		return purpose + "-" + network
	}
	return purpose + "/" + nft.Hash(network)
}

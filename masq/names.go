package masq

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
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

// plainLabel reports whether the name passes through the quoting of both programs: printable, no quote or backslash, no
// space at an end.
func plainLabel(s string) bool {
	return s != "" && len(s) <= maxLabel && s == strings.Trim(s, " ") &&
		strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) < 0
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])[:20]
}

// label is a name that may stand in a comment of either backend: itself, or its beginning and a hash.
func label(name string) string {
	if plainLabel(name) {
		return name
	}
	safe := strings.Map(func(r rune) rune {
		if r > ' ' && r < 0x7f && r != '"' && r != '\\' {
			return r
		}
		return '_'
	}, name)
	return safe[:min(len(safe), maxLabel-21)] + "~" + hash(name)
}

// commentFor marks the rules of a network.
func commentFor(network string) string { return mark + " " + label(network) }

// chainFor is the iptables chain of a network. Chains have at most 28 characters.
func chainFor(network string) string { return chainBase + hash(network) }

// setFor is the nft set of a network for one purpose. The purpose before the name keeps it from being a keyword of the
// nft program; a slash is in no name of a CNI network.
func setFor(purpose, network string) string {
	if plainName(network) {
		return purpose + "-" + network
	}
	return purpose + "/" + hash(network)
}

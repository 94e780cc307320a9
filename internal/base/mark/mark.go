// Package mark has the marks by which what this library puts on a node is known again, other than those of links, which are
// those of package link. docs/names.md lists them all.
package mark

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

const (
	// Word is the name of our tables of nftables, the first word of the comments there and in iptables, and what aliases of
	// links begin with.
	Word = "cniblocks"

	// Index is the directory with our index of leases, beside the networks' directories.
	Index = "." + Word

	// The chains of iptables that POSTROUTING and FORWARD jump to, and what the names of the networks' chains begin with.
	Postrouting = prefix + "POSTROUTING"
	Forward     = prefix + "FORWARD"

	// HostPorts is our table of nftables for host ports. HostPortChain is the chain of iptables that PREROUTING and OUTPUT jump to for
	// them, HostPortMasq that of POSTROUTING.
	HostPorts     = Word + "-hostports"
	HostPortChain = prefix + "HOSTPORT"
	HostPortMasq  = prefix + "HOSTPORT-MASQ"

	prefix   = "CNIB-"
	maxName  = 64
	maxLabel = 100 // bytes of a network's name or an owner's in comments
)

// Name is the name of a network or an owner as it stands in a comment, see [Label].
func Name(s string) string { return Label(s, maxLabel) }

// Comment is that of the rules of a network.
func Comment(network string) string { return Word + " " + Name(network) }

// Network is the name of a network that a comment begins with, see [Name].
func Network(comment string) (name string, ok bool) { return strings.CutPrefix(comment, Word+" ") }

// Chain is the chain of a network in tables of iptables. Chains have at most 28 characters.
func Chain(network string) string { return prefix + Hash(network) }

// PortChain is the chain of a pod's host ports, by its owner's label.
func PortChain(label string) string { return prefix + "HP-" + Hash(label) }

// Set is the set of a network for one purpose in our tables. The purpose before the name keeps it from being a keyword of the
// nft program; a slash is in no name of a CNI network.
func Set(purpose, network string) string {
	if plain(network) {
		return purpose + "-" + network
	}
	return purpose + "/" + Hash(network)
}

// plain reports whether the name can be part of an nft identifier.
func plain(s string) bool {
	return s != "" && len(s) <= maxName && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_' || r == '.' || r == '-')
	}) < 0
}

const labelHash = 20 // hexadecimal digits

// Label is a name that may stand in a comment of nftables and of iptables and has at most size bytes: itself, or its
// beginning and a hash. It never holds quotes, backslashes or what is not printable, and no space at an end.
func Label(name string, size int) string {
	if name != "" && len(name) <= size && name == strings.Trim(name, " ") && strings.IndexFunc(name, awkward) < 0 {
		return name
	}
	safe := strings.Map(func(r rune) rune {
		if r == ' ' || awkward(r) {
			return '_'
		}
		return r
	}, name)
	return safe[:min(len(safe), LabelKept(size))] + "~" + Hash(name)
}

// LabelKept is how many bytes of a name a label of that size repeats at least.
func LabelKept(size int) int { return size - labelHash - 1 }

func awkward(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }

// Hash is a short hash for names.
func Hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])[:labelHash]
}

package nft

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

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

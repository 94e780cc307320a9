// Package inet has the values of addressing that [net/netip] lacks: the family, the Ethernet address, the range of
// addresses. All are comparable, pure data, and read and written as text.
package inet

import "net/netip"

// Family is a version of the Internet protocol.
type Family uint8

// The two families. The zero Family is neither.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// Families are both, in the order in which they are listed everywhere.
var Families = [...]Family{IPv4, IPv6}

// FamilyOf is the family of an address. An IPv4 address mapped into IPv6 is of neither, as is the zero Addr.
func FamilyOf(a netip.Addr) Family {
	switch {
	case a.Is4():
		return IPv4
	case a.Is6() && !a.Is4In6():
		return IPv6
	}
	return 0
}

// Default is the destination of a default route: 0.0.0.0/0 or ::/0; the zero Prefix for neither family.
func (f Family) Default() netip.Prefix {
	switch f {
	case IPv4:
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	case IPv6:
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.Prefix{}
}

// Title is "IPv4" or "IPv6", as in a sentence.
func (f Family) Title() string {
	switch f {
	case IPv4:
		return "IPv4"
	case IPv6:
		return "IPv6"
	}
	return "no family"
}

// String is "ipv4" or "ipv6", as in the documents.
func (f Family) String() string {
	switch f {
	case IPv4:
		return "ipv4"
	case IPv6:
		return "ipv6"
	}
	return "no family"
}

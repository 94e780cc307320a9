package rtnl

import (
	"fmt"
	"strings"
)

// CheckMTU refuses what no device of ours can carry; 0 is the kernel's choice. The whole error begins with the name.
func CheckMTU(device string, mtu int) error {
	const least, most = 68, 65535 // RFC 791; struct iphdr's length
	if mtu != 0 && (mtu < least || mtu > most) {
		return fmt.Errorf("%s: MTU %d: want %d to %d bytes, or 0 for the kernel's choice", device, mtu, least, most)
	}
	return nil
}

// CheckAlias refuses what the kernel does not take for an alias (IFALIASZ, with the final zero). The whole error begins with
// the name.
func CheckAlias(device, alias string) error {
	const most = 255
	if len(alias) > most {
		return fmt.Errorf("%s: alias of %d bytes; want at most %d", device, len(alias), most)
	}
	return nil
}

// CheckName refuses a name that no interface can have, an empty one, for which the kernel would choose another, and one
// with '%', which it would take for a pattern.
func CheckName(s string) error {
	switch {
	case s == "", len(s) > 15, s == ".", s == "..", strings.ContainsAny(s, "/:% \t\n\v\f\r\x00"), strings.IndexByte(s, 0xa0) >= 0:
		return fmt.Errorf("interface name %q: want at most 15 bytes without '/', ':', '%%' and white space", s)
	}
	return nil
}

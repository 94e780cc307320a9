package rtnl

import (
	"fmt"
	"net"
)

// MAC is an Ethernet address. The zero value means that there is none, or that it is the kernel's choice.
type MAC [6]byte

// ParseMAC reads six octets, as in 0a:58:0a:f4:01:02. The all-zero and group addresses are errors: no station has them.
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		return MAC{}, fmt.Errorf("MAC address %q: want six octets such as 0a:58:0a:f4:01:02", s)
	}
	m := MAC(hw)
	if m == (MAC{}) || m[0]&1 != 0 {
		return MAC{}, fmt.Errorf("MAC address %q: it is a group or an all-zero address, which no interface can have", s)
	}
	return m, nil
}

// String is the canonical form; the zero value is the empty string.
func (m MAC) String() string {
	if m == (MAC{}) {
		return ""
	}
	return net.HardwareAddr(m[:]).String()
}

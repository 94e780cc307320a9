package rtnl

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"github.com/cniblocks/cniblocks/internal/mac"
)

// MAC is an Ethernet address. The zero value means that there is none, or that it is the kernel's choice.
type MAC [6]byte

// ParseMAC reads six octets, as in 0a:58:0a:f4:01:02. The all-zero and group addresses are errors: no station has them.
func ParseMAC(s string) (MAC, error) {
	m, ok := mac.Parse(s)
	if !ok {
		return MAC{}, fmt.Errorf("MAC address %q: want six octets such as 0a:58:0a:f4:01:02", s)
	}
	if m == (MAC{}) || m[0]&1 != 0 {
		return MAC{}, fmt.Errorf("MAC address %q: it is a group or an all-zero address, which no interface can have", s)
	}
	return m, nil
}

// RandomMAC is a station's, locally administered. Nobody else's device has it.
func RandomMAC() (m MAC) {
	binary.NativeEndian.PutUint32(m[2:], rand.Uint32())
	binary.NativeEndian.PutUint16(m[:], uint16(rand.Uint32()))
	m[0] = m[0]&^1 | 2
	return m
}

// String is the canonical form; the zero value is the empty string.
func (m MAC) String() string {
	if m == (MAC{}) {
		return ""
	}
	return mac.String(m)
}

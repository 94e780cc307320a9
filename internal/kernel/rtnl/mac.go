package rtnl

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/cniblocks/cniblocks/inet"
)

// MAC is an Ethernet address. The zero value means that there is none, or that it is the kernel's choice.
type MAC = inet.MAC

// RandomMAC is a station's, locally administered. Nobody else's device has it.
func RandomMAC() (m MAC) {
	binary.NativeEndian.PutUint32(m[2:], rand.Uint32())
	binary.NativeEndian.PutUint16(m[:], uint16(rand.Uint32()))
	m[0] = m[0]&^1 | 2
	return m
}

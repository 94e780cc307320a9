package rtnl

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/cniblocks/cniblocks/inet"
)

// RandomMAC is a station's, locally administered. Nobody else's device has it.
func RandomMAC() (m inet.MAC) {
	binary.NativeEndian.PutUint32(m[2:], rand.Uint32())
	binary.NativeEndian.PutUint16(m[:], uint16(rand.Uint32()))
	m[0] = m[0]&^1 | 2
	return m
}

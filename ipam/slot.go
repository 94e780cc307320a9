package ipam

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
)

// slot is what the index remembers of a lease. It may be out of date: there is a lease only if the lease file says so.
type slot struct {
	owner key
	addr  netip.Addr
	id    identity
	boot  uint64 // in which it was made, by hashBoot
}

// identity tells a lease file from any other that had or will have its name.
type identity struct {
	ino   uint64
	mtime int64 // nanoseconds
}

// key stands for an owner. The lease file has the owner itself.
type key [16]byte

func keyOf(o Owner) key {
	sum := sha256.Sum256([]byte(o.content()))
	return key(sum[:16])
}

// home is the place, out of n, where the search for a key begins.
func (k key) home(n int) int { return int(binary.LittleEndian.Uint64(k[:]) % uint64(n)) }

func hashBoot(id string) uint64 {
	sum := sha256.Sum256([]byte(id))
	return binary.LittleEndian.Uint64(sum[:])
}

// slotSize is the number of bytes of a slot on disk: a 1, three zeros, the checksum of what follows, then the fields in
// order, little endian. All zeros: an empty slot.
const slotSize = 64

// checksum is FNV-1a, which needs no table: package initialisation is paid by every plugin's start.
func checksum(b []byte) uint32 {
	h := uint32(2166136261)
	for _, c := range b {
		h = (h ^ uint32(c)) * 16777619
	}
	return h
}

func (s slot) put(b []byte) {
	le, addr := binary.LittleEndian, s.addr.As16()
	clear(b[:8])
	copy(b[8:], s.owner[:])
	copy(b[24:], addr[:])
	le.PutUint64(b[40:], s.id.ino)
	le.PutUint64(b[48:], uint64(s.id.mtime))
	le.PutUint64(b[56:], s.boot)
	b[0] = 1
	le.PutUint32(b[4:], checksum(b[8:slotSize]))
}

// parseSlot reads a slot. One that is in use and not valid is garbage: it is skipped.
func parseSlot(b []byte) (s slot, inUse, valid bool) {
	le := binary.LittleEndian
	if len(b) < slotSize || b[0] == 0 {
		return slot{}, false, false
	}
	if le.Uint32(b[:]) != 1 || le.Uint32(b[4:]) != checksum(b[8:slotSize]) {
		return slot{}, true, false
	}
	s = slot{
		owner: key(b[8:24]), addr: netip.AddrFrom16([16]byte(b[24:40])).Unmap(),
		id: identity{le.Uint64(b[40:]), int64(le.Uint64(b[48:]))}, boot: le.Uint64(b[56:]),
	}
	return s, true, true
}

// header is the first slot of a table: a magic number and the number of homes.
const magic = "cniblocks leases 1\n"

func putHeader(b []byte, n int) {
	copy(b, magic)
	binary.LittleEndian.PutUint64(b[56:], uint64(n))
}

func parseHeader(b []byte) (n int, ok bool) {
	if len(b) < slotSize || string(b[:len(magic)]) != magic {
		return 0, false
	}
	u := binary.LittleEndian.Uint64(b[56:])
	return int(u), u > 0 && u < 1<<32
}

// checkBootID makes sure that a boot ID is a name of a directory.
func checkBootID(s string) error {
	ok := len(s) > 0 && len(s) <= 64
	for _, c := range s {
		ok = ok && (c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z')
	}
	if !ok {
		return fmt.Errorf("boot ID %q: give 1 to 64 lower case letters, digits and hyphens", s)
	}
	return nil
}

package ipam

import (
	"encoding/binary"
	"iter"
	"net/netip"
)

// wide is an address as a number, the high half first. IPv4 addresses are those of ::/96.
func wide(a netip.Addr) [2]uint64 {
	if a.Is4() {
		b := a.As4()
		return [2]uint64{0, uint64(binary.BigEndian.Uint32(b[:]))}
	}
	b := a.As16()
	return [2]uint64{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// blockSize is the number of addresses of a block: those that differ only in the last 16 bits.
const blockSize = 1 << 16

// split returns the first address of a's block, and where in it a is.
func split(a netip.Addr) (base netip.Addr, off int) {
	b := a.AsSlice()
	n := len(b)
	off = int(binary.BigEndian.Uint16(b[n-2:]))
	b[n-2], b[n-1] = 0, 0
	base, _ = netip.AddrFromSlice(b)
	return base, off
}

// at is the address of a block at an offset.
func at(base netip.Addr, off int) netip.Addr {
	b := base.AsSlice()
	binary.BigEndian.PutUint16(b[len(b)-2:], uint16(off))
	a, _ := netip.AddrFromSlice(b)
	return a
}

// within returns the offsets of a block, lo to hi inclusive, that lie between first and last; none if lo > hi.
func within(base, first, last netip.Addr) (lo, hi int) {
	if base.BitLen() != first.BitLen() || last.Less(base) || at(base, blockSize-1).Less(first) {
		return 1, 0
	}
	lo, hi = 0, blockSize-1
	if b, off := split(first); b == base {
		lo = off
	}
	if b, off := split(last); b == base {
		hi = off
	}
	return lo, hi
}

// blocksOf yields the blocks that hold the addresses from first to last, in order.
func blocksOf(first, last netip.Addr) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		for base, _ := split(first); base.IsValid() && !last.Less(base); base, _ = split(base) {
			if !yield(base) {
				return
			}
			if base = at(base, blockSize-1).Next(); !base.IsValid() {
				return
			}
		}
	}
}

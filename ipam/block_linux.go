package ipam

import (
	"errors"
	"io/fs"
	"math/bits"
	"net/netip"

	"golang.org/x/sys/unix"
)

// bitmap is one of the two of a block.
type bitmap int

const (
	used  bitmap = iota // there is a file with the name of the address
	stale               // and it was torn, or of an earlier boot, when the directory was last read
)

const mapBytes = blockSize / 8

// block is a file of the index that holds the bitmaps of blockSize addresses, one behind the other. No file: all zero.
type block struct {
	fd   int // -1: no file
	bits [2 * mapBytes]byte
}

func blockFile(base netip.Addr) string { return "block." + base.String() }

func (b *block) get(m bitmap, off int) bool { return b.bits[int(m)*mapBytes+off/8]&(1<<(off%8)) != 0 }

func (b *block) put(m bitmap, off int, v bool) {
	i, bit := int(m)*mapBytes+off/8, byte(1)<<(off%8)
	if v {
		b.bits[i] |= bit
	} else {
		b.bits[i] &^= bit
	}
}

// find returns the first offset from lo to hi whose bit in m is v, or -1.
func (b *block) find(m bitmap, v bool, lo, hi int) int {
	var flip byte
	if !v {
		flip = 0xff
	}
	for i := lo / 8; i <= hi/8; i++ {
		x := b.bits[int(m)*mapBytes+i] ^ flip
		if i == lo/8 {
			x &= 0xff << (lo % 8)
		}
		if x == 0 {
			continue
		}
		if off := i*8 + bits.TrailingZeros8(x); off <= hi {
			return off
		}
		break
	}
	return -1
}

// live counts the addresses from lo to hi that are used and not reclaimable.
func (b *block) live(lo, hi int) (n int) {
	for i := lo / 8; i <= hi/8; i++ {
		x := b.bits[i] &^ b.bits[mapBytes+i]
		if i == lo/8 {
			x &= 0xff << (lo % 8)
		}
		if i == hi/8 {
			x &= 0xff >> (7 - hi%8)
		}
		n += bits.OnesCount8(x)
	}
	return n
}

// block loads the block that starts at base.
func (s *session) block(base netip.Addr) (*block, error) {
	if b := s.blocks[base]; b != nil {
		return b, nil
	}
	b := &block{fd: -1}
	fd, err := s.idx.open(blockFile(base), unix.O_RDWR)
	if err == nil {
		b.fd = fd
		_, err = s.idx.read(fd, blockFile(base), b.bits[:], 0)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	s.blocks[base] = b
	return b, nil
}

// mark notes for an address whether it is used and whether it is reclaimable.
func (s *session) mark(a netip.Addr, isUsed, isStale bool) error {
	base, off := split(a)
	b, err := s.block(base)
	if err != nil {
		return err
	}
	for m, v := range [...]bool{used: isUsed, stale: isStale} {
		if b.get(bitmap(m), off) == v {
			continue
		}
		b.put(bitmap(m), off, v)
		if err := s.store(base, b, m*mapBytes+off/8, 1); err != nil {
			return err
		}
	}
	return nil
}

// store writes some bytes of a block, and makes its file if need be.
func (s *session) store(base netip.Addr, b *block, from, n int) error {
	if b.fd < 0 {
		fd, err := s.idx.open(blockFile(base), unix.O_RDWR|unix.O_CREAT)
		if err != nil {
			return err
		}
		b.fd = fd
	}
	return s.idx.write(b.fd, blockFile(base), b.bits[from:from+n], int64(from))
}

func (s *session) closeBlocks() {
	for _, b := range s.blocks {
		if b.fd >= 0 {
			unix.Close(b.fd)
		}
	}
	clear(s.blocks)
}

//go:build linux

package nft

import (
	"bytes"
	"encoding/binary"
	"iter"

	"golang.org/x/sys/unix"
)

// attrs is a run of netlink attributes in the making (netlink(7)); numbers of nf_tables are big-endian.
type attrs []byte

func (a *attrs) put(typ int, value []byte) {
	size := unix.SizeofNlAttr + len(value)
	*a = binary.NativeEndian.AppendUint16(*a, uint16(size))
	*a = binary.NativeEndian.AppendUint16(*a, uint16(typ))
	*a = append(*a, value...)
	a.pad()
}

func (a *attrs) pad() {
	for len(*a)%unix.NLA_ALIGNTO != 0 {
		*a = append(*a, 0)
	}
}

func (a *attrs) u32(typ int, v uint32) { a.put(typ, binary.BigEndian.AppendUint32(nil, v)) }

func (a *attrs) u64(typ int, v uint64) { a.put(typ, binary.BigEndian.AppendUint64(nil, v)) }

func (a *attrs) str(typ int, s string) { a.put(typ, append([]byte(s), 0)) }

// nest puts what fill adds into an attribute of its own.
func (a *attrs) nest(typ int, fill func(*attrs)) {
	start := len(*a)
	a.put(typ|unix.NLA_F_NESTED, nil)
	fill(a)
	binary.NativeEndian.PutUint16((*a)[start:], uint16(len(*a)-start))
}

// each yields the attributes of a message: type, value. It ends at the first that is torn.
func each(b []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		for len(b) >= unix.SizeofNlAttr {
			size := int(binary.NativeEndian.Uint16(b))
			if size < unix.SizeofNlAttr || size > len(b) {
				return
			}
			typ := int(binary.NativeEndian.Uint16(b[2:])) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if !yield(typ, b[unix.SizeofNlAttr:size]) {
				return
			}
			b = b[min((size+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1), len(b)):]
		}
	}
}

// get returns the value at a path of nested attributes, nil if there is none.
func get(b []byte, path ...int) []byte {
	for _, want := range path {
		found := false
		for typ, v := range each(b) {
			if typ == want {
				b, found = v, true
				break
			}
		}
		if !found {
			return nil
		}
	}
	return b
}

func getU32(b []byte, path ...int) uint32 {
	if v := get(b, path...); len(v) >= 4 {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func getU64(b []byte, path ...int) uint64 {
	if v := get(b, path...); len(v) >= 8 {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

func getStr(b []byte, path ...int) string { return cString(get(b, path...)) }

func cString(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}

// User data are type, length, value with one byte each; type 0 of a rule and of a set element is its comment, with a
// final NUL (libnftnl's udata.h).
func comment(text string) []byte {
	if text == "" {
		return nil
	}
	return append([]byte{0, byte(len(text) + 1)}, append([]byte(text), 0)...)
}

func commentOf(userdata []byte) string {
	for len(userdata) >= 2 {
		typ, size := userdata[0], int(userdata[1])
		if size > len(userdata)-2 {
			return ""
		}
		if typ == 0 {
			return cString(userdata[2 : 2+size])
		}
		userdata = userdata[2+size:]
	}
	return ""
}

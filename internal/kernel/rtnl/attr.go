//go:build linux

package rtnl

import (
	"encoding/binary"
	"iter"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Msg is a request under construction: netlink header, family header, attributes. The zero value is none yet. Its methods
// that make it one, such as [Msg.ReplaceRoute], may be called again, once the former request has been sent.
type Msg struct {
	b     []byte
	store [112]byte // where b begins; most messages need no more
	flags uint16
	op    string
	about func(body []byte) string // reads what op is done to back out of the message, which only one that fails needs
	reply func(body []byte)        // called with what the kernel echoes or answers
}

// String says in words what the message asks for.
func (m *Msg) String() string { return words(m.op, m.about, m.b) }

func words(op string, about func([]byte) string, msg []byte) string {
	if about == nil {
		return op
	}
	return op + " " + about(msg[headerLen:])
}

// newMsg starts a request; op says in words what it asks for.
func newMsg(typ, flags uint16, op string, family []byte) *Msg {
	return new(Msg).start(typ, flags, op, family)
}

// start makes m another request, in the memory of what it was.
func (m *Msg) start(typ, flags uint16, op string, family []byte) *Msg {
	if m.b == nil {
		m.b = m.store[:]
	}
	m.b = append(m.b[:headerLen], family...)
	native.PutUint16(m.b[4:], typ)
	m.flags, m.op, m.about, m.reply = flags, op, nil, nil
	return m
}

func (m *Msg) seal(flags uint16, seq uint32) {
	native.PutUint32(m.b, uint32(len(m.b)))
	native.PutUint16(m.b[6:], flags)
	native.PutUint32(m.b[8:], seq)
}

func align(n int) int { return (n + 3) &^ 3 }

func (m *Msg) bytes(typ uint16, v []byte) {
	m.b = native.AppendUint16(m.b, uint16(4+len(v)))
	m.b = native.AppendUint16(m.b, typ)
	m.b = append(m.b, v...)
	for len(m.b)%4 != 0 {
		m.b = append(m.b, 0)
	}
}

func (m *Msg) str(typ uint16, s string)  { m.bytes(typ, append([]byte(s), 0)) }
func (m *Msg) u8(typ uint16, v uint8)    { m.bytes(typ, []byte{v}) }
func (m *Msg) flag(typ uint16, on bool)  { m.u8(typ, b2u(on)) }
func (m *Msg) be16(typ uint16, v uint16) { m.bytes(typ, []byte{byte(v >> 8), byte(v)}) }

func (m *Msg) u16(typ uint16, v uint16) {
	var b [2]byte
	native.PutUint16(b[:], v)
	m.bytes(typ, b[:])
}

func (m *Msg) u32(typ uint16, v uint32) {
	var b [4]byte
	native.PutUint32(b[:], v)
	m.bytes(typ, b[:])
}

func (m *Msg) be32(typ uint16, v uint32) {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], v)
	m.bytes(typ, b[:])
}

func (m *Msg) be64(typ uint16, v uint64) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], v)
	m.bytes(typ, b[:])
}

func (m *Msg) ip(typ uint16, a netip.Addr) {
	if a.Is4() {
		b := a.As4()
		m.bytes(typ, b[:])
		return
	}
	b := a.As16()
	m.bytes(typ, b[:])
}

// nest puts what f adds into an attribute.
func (m *Msg) nest(typ uint16, f func()) {
	at := len(m.b)
	m.b = append(m.b, 0, 0, 0, 0)
	f()
	native.PutUint16(m.b[at:], uint16(len(m.b)-at))
	native.PutUint16(m.b[at+2:], typ|unix.NLA_F_NESTED)
}

// raw adds bytes that are no attribute, such as a header inside of one.
func (m *Msg) raw(v []byte) { m.b = append(m.b, v...) }

func b2u(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// attrs yields type and value of each attribute in b; malformed rest ends it.
func attrs(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			size := int(native.Uint16(b))
			if size < 4 || size > len(b) {
				return
			}
			if !yield(native.Uint16(b[2:])&nlaTypeMask, b[4:size]) {
				return
			}
			b = b[min(align(size), len(b)):]
		}
	}
}

func cstring(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

func u8of(b []byte) uint8 {
	if len(b) < 1 {
		return 0
	}
	return b[0]
}

func u16of(b []byte) uint16 {
	if len(b) < 2 {
		return 0
	}
	return native.Uint16(b)
}

func u32of(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return native.Uint32(b)
}

func be16of(b []byte) uint16 {
	if len(b) < 2 {
		return 0
	}
	return binary.BigEndian.Uint16(b)
}

func be64of(b []byte) uint64 {
	if len(b) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

func addrOf(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// Bytes is the request as it goes over a socket, for a process that sends it and waits for no answer.
func (m *Msg) Bytes() []byte {
	m.seal(m.flags|unix.NLM_F_REQUEST, 1)
	return m.b
}

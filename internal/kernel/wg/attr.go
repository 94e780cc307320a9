//go:build linux

package wg

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

var native = binary.NativeEndian

// linux/wireguard.h
const (
	familyName = "wireguard"

	getDevice, setDevice = 0, 1

	deviceName, devicePrivateKey, devicePort, devicePeers = 2, 3, 6, 8

	peerKey, peerFlags, peerEndpoint, peerKeepalive, peerAllowedIPs = 1, 3, 4, 5, 9

	allowedFamily, allowedIP, allowedBits = 1, 2, 3

	flagRemove, flagReplace, flagUpdateOnly = 1, 2, 4
)

// batch is how many bytes of attributes a message has, give or take a peer: the list of peers is one attribute, of at most
// 64 KiB.
const batch = 32 << 10

// messages encodes a change and calls send with the attributes of each message.
func messages(name string, cfg Config, send func(attrs []byte) error) error {
	b := appendString(nil, deviceName, name)
	head := len(b)
	if cfg.PrivateKey != nil {
		b = appendAttr(b, devicePrivateKey, cfg.PrivateKey[:])
	}
	if cfg.Port != nil {
		b = appendAttr(b, devicePort, native.AppendUint16(nil, *cfg.Port))
	}
	list := -1 // where the list of peers begins
	flush := func() error {
		if len(b) == head {
			return nil
		}
		if list >= 0 {
			b = end(b, list)
		}
		err := send(b)
		b, list = b[:head], -1
		return err
	}
	for i := range cfg.Peers {
		p := &cfg.Peers[i]
		for first, rest := true, p.AllowedIPs; first || len(rest) > 0; first = false {
			if list < 0 {
				b, list = begin(b, devicePeers)
			}
			b, rest = appendPeer(b, p, rest, first)
			if len(b) >= batch {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	return flush()
}

// appendPeer adds a peer, with as many of its allowed IPs as there is room for, and returns the others. Only the first
// message says what it is besides them.
func appendPeer(b []byte, p *Change, allowed []netip.Prefix, first bool) (_ []byte, rest []netip.Prefix) {
	b, at := begin(b, 0)
	b = appendAttr(b, peerKey, p.PublicKey[:])
	var flags uint32
	if p.Remove {
		flags = flagRemove | flagUpdateOnly
	} else if p.Replace && first {
		flags = flagReplace
	}
	if flags != 0 {
		b = appendAttr(b, peerFlags, native.AppendUint32(nil, flags))
	}
	if p.Remove {
		return end(b, at), nil
	}
	if first {
		if p.Endpoint.IsValid() {
			b = appendAttr(b, peerEndpoint, sockaddr(p.Endpoint))
		}
		b = appendAttr(b, peerKeepalive, native.AppendUint16(nil, p.Keepalive))
	}
	b, list := begin(b, peerAllowedIPs)
	for len(allowed) > 0 && len(b) < batch {
		b, allowed = appendAllowed(b, allowed[0]), allowed[1:]
	}
	return end(end(b, list), at), allowed
}

func appendAllowed(b []byte, r netip.Prefix) []byte {
	b, at := begin(b, 0)
	family := uint16(unix.AF_INET6)
	if r.Addr().Is4() {
		family = unix.AF_INET
	}
	b = appendAttr(b, allowedFamily, native.AppendUint16(nil, family))
	b = appendAttr(b, allowedIP, r.Addr().AsSlice())
	b = appendAttr(b, allowedBits, []byte{byte(r.Bits())})
	return end(b, at)
}

// sockaddr is struct sockaddr_in or sockaddr_in6.
func sockaddr(a netip.AddrPort) []byte {
	family, pad := uint16(unix.AF_INET), 0
	if !a.Addr().Is4() {
		family, pad = unix.AF_INET6, 4
	}
	b := native.AppendUint16(nil, family)
	b = binary.BigEndian.AppendUint16(b, a.Port())
	b = append(b, make([]byte, pad)...) // flow information
	b = append(b, a.Addr().AsSlice()...)
	return append(b, make([]byte, 8-pad)...) // padding, or the scope
}

var errMalformed = errors.New("the kernel's answer is malformed")

// merge adds what one message of a dump tells. A peer whose allowed IPs did not fit goes on in the next one.
func (d *Device) merge(b []byte) error {
	return each(b, func(typ uint16, v []byte) (err error) {
		switch typ {
		case devicePrivateKey:
			err = exact(d.PrivateKey[:], v)
		case devicePort:
			d.Port, err = u16(v)
		case devicePeers:
			err = each(v, func(_ uint16, v []byte) error { return d.mergePeer(v) })
		}
		return err
	})
}

func (d *Device) mergePeer(b []byte) error {
	var p Peer
	known := false
	err := each(b, func(typ uint16, v []byte) (err error) {
		switch typ {
		case peerKey:
			known, err = true, exact(p.PublicKey[:], v)
		case peerEndpoint:
			p.Endpoint, err = endpoint(v)
		case peerKeepalive:
			p.Keepalive, err = u16(v)
		case peerAllowedIPs:
			err = each(v, func(_ uint16, v []byte) error {
				r, err := allowed(v)
				p.AllowedIPs = append(p.AllowedIPs, r)
				return err
			})
		}
		return err
	})
	if err != nil || !known {
		return errors.Join(err, unless(known, errMalformed))
	}
	if n := len(d.Peers); n > 0 && d.Peers[n-1].PublicKey == p.PublicKey {
		d.Peers[n-1].AllowedIPs = append(d.Peers[n-1].AllowedIPs, p.AllowedIPs...)
		return nil
	}
	d.Peers = append(d.Peers, p)
	return nil
}

func allowed(b []byte) (netip.Prefix, error) {
	var a netip.Addr
	bits := -1
	err := each(b, func(typ uint16, v []byte) error {
		switch typ {
		case allowedIP:
			a, _ = netip.AddrFromSlice(v)
		case allowedBits:
			if len(v) != 1 {
				return errMalformed
			}
			bits = int(v[0])
		}
		return nil
	})
	r := netip.PrefixFrom(a, bits)
	if err == nil && !r.IsValid() {
		err = errMalformed
	}
	return r, err
}

func endpoint(b []byte) (netip.AddrPort, error) {
	if len(b) < 2 {
		return netip.AddrPort{}, errMalformed
	}
	var a netip.Addr
	switch family := native.Uint16(b); {
	case family == unix.AF_INET && len(b) >= unix.SizeofSockaddrInet4:
		a = netip.AddrFrom4([4]byte(b[4:]))
	case family == unix.AF_INET6 && len(b) >= unix.SizeofSockaddrInet6:
		a = netip.AddrFrom16([16]byte(b[8:])).Unmap()
	default:
		return netip.AddrPort{}, errMalformed
	}
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(b[2:])), nil
}

func unless(ok bool, err error) error {
	if ok {
		return nil
	}
	return err
}

func exact(to, v []byte) error {
	if copy(to, v) != len(to) || len(v) != len(to) {
		return errMalformed
	}
	return nil
}

func u16(v []byte) (uint16, error) {
	if len(v) != 2 {
		return 0, errMalformed
	}
	return native.Uint16(v), nil
}

const attrLen = 4

func align(n int) int { return (n + 3) &^ 3 }

// each calls f for every attribute.
func each(b []byte, f func(typ uint16, v []byte) error) error {
	for len(b) > 0 {
		if len(b) < attrLen {
			return errMalformed
		}
		size := int(native.Uint16(b))
		if size < attrLen || size > len(b) {
			return errMalformed
		}
		const flags = unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER
		if err := f(native.Uint16(b[2:])&^flags, b[attrLen:size]); err != nil {
			return err
		}
		b = b[min(align(size), len(b)):]
	}
	return nil
}

func appendAttr(b []byte, typ uint16, v []byte) []byte {
	b = native.AppendUint16(b, uint16(attrLen+len(v)))
	b = native.AppendUint16(b, typ)
	b = append(b, v...)
	return append(b, make([]byte, align(len(v))-len(v))...)
}

func appendString(b []byte, typ uint16, s string) []byte {
	return appendAttr(b, typ, append([]byte(s), 0))
}

// begin starts an attribute of attributes, which end completes.
func begin(b []byte, typ uint16) (_ []byte, at int) {
	return native.AppendUint16(native.AppendUint16(b, 0), typ|unix.NLA_F_NESTED), len(b)
}

func end(b []byte, at int) []byte {
	native.PutUint16(b[at:], uint16(len(b)-at))
	return b
}

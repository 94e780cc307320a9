//go:build linux

package nft

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Numbers of linux/netfilter/nfnetlink_conntrack.h.
const (
	ctGet      = 1
	ctDelete   = 2
	ctaOrig    = 1
	ctaReply   = 2
	ctaID      = 12
	ctaZone    = 18
	ctaFilter  = 25 // Linux 5.8; an older kernel passes it over
	ctaFlags   = 1
	flagProto  = 1 << 3
	tupleIP    = 1
	tupleProto = 2
	ipv4Src    = 1 // and IPv6 from 3
	ipv6Src    = 3
	protoNum   = 1
	protoSrc   = 2
	protoDst   = 3
)

// Tuple is the addresses of a direction of a flow.
type Tuple struct {
	Proto    uint8
	Src, Dst netip.AddrPort
}

// Flow is an entry of connection tracking. The same subsystem of netlink as that of nftables tells and takes it.
type Flow struct {
	Orig, Reply Tuple
	orig        []byte // as it came
	id, zone    []byte
}

// Flows are the flows of a protocol in a family (conntrack(8)).
func (c *Conn) Flows(family, proto uint8) ([]Flow, error) {
	r := Request{sub: unix.NFNL_SUBSYS_CTNETLINK, typ: ctGet, family: family}
	r.attrs.nest(ctaOrig, func(a *attrs) {
		a.nest(tupleProto, func(a *attrs) { a.put(protoNum, []byte{proto}) })
	})
	r.attrs.nest(ctaFilter, func(a *attrs) { a.put(ctaFlags, binary.NativeEndian.AppendUint32(nil, flagProto)) })
	a, err := c.one(r)
	if err != nil {
		return nil, err
	}
	var list []Flow
	for _, row := range a.rows {
		f := Flow{Orig: readTuple(get(row, ctaOrig)), Reply: readTuple(get(row, ctaReply)), orig: get(row, ctaOrig), id: get(row, ctaID), zone: get(row, ctaZone)}
		if f.Orig.Proto == proto {
			list = append(list, f)
		}
	}
	return list, nil
}

func readTuple(b []byte) (t Tuple) {
	addr := func(n int) netip.Addr {
		a, _ := netip.AddrFromSlice(get(b, tupleIP, n))
		return a
	}
	port := func(n int) uint16 {
		if p := get(b, tupleProto, n); len(p) == 2 {
			return uint16(p[0])<<8 | uint16(p[1])
		}
		return 0
	}
	if p := get(b, tupleProto, protoNum); len(p) == 1 {
		t.Proto = p[0]
	}
	from := ipv4Src
	if get(b, tupleIP, from) == nil {
		from = ipv6Src
	}
	t.Src, t.Dst = netip.AddrPortFrom(addr(from), port(protoSrc)), netip.AddrPortFrom(addr(from+1), port(protoDst))
	return t
}

// EndFlows deletes flows; those that ended meanwhile, or that others began in their place, are no error.
func (c *Conn) EndFlows(family uint8, list []Flow) error {
	const atOnce = 50
	for len(list) > 0 {
		n := min(atOnce, len(list))
		var reqs []Request
		for _, f := range list[:n] {
			r := Request{sub: unix.NFNL_SUBSYS_CTNETLINK, typ: ctDelete, family: family, rows: -1}
			r.attrs.put(ctaOrig|unix.NLA_F_NESTED, f.orig)
			if f.id != nil {
				r.attrs.put(ctaID, f.id)
			}
			if f.zone != nil {
				r.attrs.put(ctaZone, f.zone)
			}
			reqs = append(reqs, r)
		}
		answers, err := c.Query(reqs...)
		if err != nil {
			return err
		}
		for _, a := range answers {
			if a.Err != nil && !errors.Is(a.Err, fs.ErrNotExist) {
				return a.Err
			}
		}
		list = list[n:]
	}
	return nil
}

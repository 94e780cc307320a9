package etcd

import (
	"cmp"
	"net/netip"
	"slices"
	"sort"

	"github.com/cniblocks/cniblocks/peer"
)

// mark is something that a peer has and that no other peer may have, or that tells where one would be in another's way:
// what [peer.Network.Sift] compares, in a form that is looked up.
type mark struct {
	kind kind
	at   netip.Prefix
	port uint16
	bits [32]byte
	name string
}

type kind byte

const (
	aName  kind = iota
	aRange      // of pods
	aHost       // the range that would hold an endpoint
	anEnd
	aMAC
	aKey
)

// index makes the marks of the list.
func (r *roll) index() {
	r.marks = make(map[mark]int, 5*len(r.list))
	r.bits = [2]int{}
	for _, p := range r.list {
		for _, pods := range p.Pods {
			if b := &r.bits[place(pods.Addr())]; *b == 0 {
				*b = pods.Bits()
			} else if *b != pods.Bits() {
				*b = mixed
			}
		}
	}
	for i := range r.list {
		r.count(&r.list[i], 1)
	}
}

func place(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

func (r *roll) count(p *peer.Peer, by int) {
	for _, m := range r.marksOf(p) {
		if n := r.marks[m] + by; n != 0 {
			r.marks[m] = n
		} else {
			delete(r.marks, m)
		}
	}
}

// marksOf are what a peer has.
func (r *roll) marksOf(p *peer.Peer) []mark {
	all := make([]mark, 0, 12)
	all = append(all, mark{kind: aName, name: p.Name})
	for _, pods := range p.Pods {
		all = append(all, mark{kind: aRange, at: pods})
	}
	for _, f := range peer.Families {
		e := p.Endpoint(f)
		family := uint16(f) // a MAC or a key is unique on one underlay
		if e.Addr.IsValid() {
			all = append(all, mark{kind: anEnd, at: netip.PrefixFrom(e.Addr, e.Addr.BitLen()), port: e.Port})
			if h, ok := r.holder(e.Addr); ok {
				all = append(all, mark{kind: aHost, at: h})
			}
		}
		if e.MAC != (peer.MAC{}) {
			m := mark{kind: aMAC, port: family}
			copy(m.bits[:], e.MAC[:])
			all = append(all, m)
		}
		if e.PublicKey != (peer.PublicKey{}) {
			all = append(all, mark{kind: aKey, port: family, bits: e.PublicKey})
		}
	}
	return all
}

// holder is the range that would hold an endpoint if a peer had it.
func (r *roll) holder(a netip.Addr) (netip.Prefix, bool) {
	b := r.bits[place(a)]
	if b <= 0 {
		return netip.Prefix{}, false
	}
	h, err := a.Prefix(b)
	return h, err == nil
}

// fits reports whether a peer conflicts with nobody on the list, if that can be told from the marks.
func (r *roll) fits(p *peer.Peer) bool {
	for _, pods := range p.Pods {
		if r.bits[place(pods.Addr())] != pods.Bits() || r.marks[mark{kind: aHost, at: pods}] > 0 {
			return false
		}
	}
	for _, m := range r.marksOf(p) {
		if m.kind == aHost {
			m.kind = aRange
		}
		if r.marks[m] > 0 {
			return false
		}
	}
	for _, f := range peer.Families {
		if p.Endpoint(f).Addr.IsValid() && r.bits[place(p.Endpoint(f).Addr)] == mixed {
			return false
		}
	}
	return true
}

// step puts one change into the list. It reports whether it could: else the whole list has to be made anew.
func (r *roll) step(key string, old, now *entry) bool {
	i := -1
	if old.good() {
		if i = slices.Index(r.keys, key); i < 0 {
			return false
		}
		if now.good() && now.created != old.created {
			return false // it was deleted meanwhile and stands elsewhere
		}
		r.count(&r.list[i], -1)
	}
	if old.problem() != nil {
		r.sick--
	}
	if now.problem() != nil {
		r.sick++
	}
	if !now.good() {
		if i >= 0 {
			r.list, r.keys = slices.Delete(r.list, i, i+1), slices.Delete(r.keys, i, i+1)
		}
		return true
	}
	if !r.fits(&now.peer) {
		return false
	}
	if i < 0 {
		i = r.position(key, now.created)
		r.list, r.keys = slices.Insert(r.list, i, peer.Peer{}), slices.Insert(r.keys, i, key)
	}
	r.list[i] = now.peer
	r.count(&now.peer, 1)
	return true
}

// position is where a key of that create revision goes.
func (r *roll) position(key string, created int64) int {
	return sort.Search(len(r.keys), func(i int) bool {
		return cmp.Or(cmp.Compare(r.entries[r.keys[i]].created, created), cmp.Compare(r.keys[i], key)) > 0
	})
}

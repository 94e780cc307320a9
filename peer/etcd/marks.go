package etcd

import (
	"cmp"
	"hash/maphash"
	"net/netip"
	"slices"
	"sort"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/peer"
)

// mark is something that a peer has and that no other peer may have, or that tells where one would be in another's way:
// what [peer.Network.Sift] compares, in a form that is looked up. It is a hash: two that are alike by chance make the list
// be made anew, which costs time and nothing else.
type mark uint64

type kind byte

const (
	aName  kind = iota
	aRange      // of pods
	aHost       // the range that would hold an endpoint
	anEnd
	aMAC
	aKey
)

// mark is that of a kind and a value of it.
func (r *cache) mark(k kind, family inet.Family, value []byte) mark {
	var b [2 + 64]byte
	b[0], b[1] = byte(k), byte(family)
	n := copy(b[2:], value)
	return mark(maphash.Bytes(r.seed, b[:2+n]))
}

func (r *cache) rangeMark(k kind, p netip.Prefix) mark {
	var b [17]byte
	a := p.Addr().As16()
	copy(b[:], a[:])
	b[16] = byte(p.Bits())
	return r.mark(k, inet.FamilyOf(p.Addr()), b[:])
}

// index makes the marks of the list. It reports whether nobody on it is in another's way, as far as the marks can tell.
func (r *cache) index() bool {
	r.marks = make(map[mark]int32, 4*len(r.order))
	r.bits = [2]int{}
	for _, e := range r.order {
		for _, pods := range e.peer.Pods {
			if b := &r.bits[place(pods.Addr())]; *b == 0 {
				*b = pods.Bits()
			} else if *b != pods.Bits() {
				*b = mixed
			}
		}
	}
	apart := true
	for _, e := range r.order {
		apart = apart && r.fits(&e.peer)
		r.count(&e.peer, 1)
	}
	return apart
}

func place(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

func (r *cache) count(p *peer.Peer, by int32) {
	for _, m := range r.marksOf(p) {
		if n := r.marks[m.mark] + by; n != 0 {
			r.marks[m.mark] = n
		} else {
			delete(r.marks, m.mark)
		}
	}
}

// trait is a mark of a peer, and the mark that no other peer may have beside it.
type trait struct{ mark, against mark }

// marksOf yields what a peer has.
func (r *cache) marksOf(p *peer.Peer) []trait {
	all := r.traits[:0]
	add := func(m mark) { all = append(all, trait{m, m}) }
	add(mark(maphash.String(r.seed, p.Name)))
	for _, pods := range p.Pods {
		all = append(all, trait{r.rangeMark(aRange, pods), r.rangeMark(aRange, pods)})
	}
	for _, f := range inet.Families {
		e := p.Endpoint(f) // a MAC or a key is unique on one underlay
		if e.Addr.IsValid() {
			end := [18]byte{16: byte(e.Port >> 8), 17: byte(e.Port)}
			a := e.Addr.As16()
			copy(end[:], a[:])
			add(r.mark(anEnd, inet.FamilyOf(e.Addr), end[:]))
			if h, ok := r.holder(e.Addr); ok {
				all = append(all, trait{r.rangeMark(aHost, h), r.rangeMark(aRange, h)})
			}
		}
		if e.MAC != (inet.MAC{}) {
			add(r.mark(aMAC, f, e.MAC[:]))
		}
		if e.PublicKey != (peer.PublicKey{}) {
			add(r.mark(aKey, f, e.PublicKey[:]))
		}
	}
	r.traits = all
	return all
}

// holder is the range that would hold an endpoint if a peer had it.
func (r *cache) holder(a netip.Addr) (netip.Prefix, bool) {
	b := r.bits[place(a)]
	if b <= 0 {
		return netip.Prefix{}, false
	}
	h, err := a.Prefix(b)
	return h, err == nil
}

// fits reports whether a peer conflicts with nobody on the list, if that can be told from the marks.
func (r *cache) fits(p *peer.Peer) bool {
	for _, pods := range p.Pods {
		if r.bits[place(pods.Addr())] != pods.Bits() || r.marks[r.rangeMark(aHost, pods)] > 0 {
			return false
		}
	}
	for _, m := range r.marksOf(p) {
		if r.marks[m.against] > 0 {
			return false
		}
	}
	for _, f := range inet.Families {
		if a := p.Endpoint(f).Addr; a.IsValid() && r.bits[place(a)] == mixed {
			return false
		}
	}
	return true
}

// step puts one change into the list. It reports whether it could: else the whole list has to be made anew.
func (r *cache) step(key string, old, now *entry) bool {
	i := -1
	if old.good() {
		if i = slices.Index(r.order, old); i < 0 {
			return false
		}
		if now.good() && now.created != old.created {
			return false // it was deleted meanwhile and stands elsewhere
		}
		r.count(&old.peer, -1)
	}
	if old.problem() != nil {
		r.invalid--
	}
	if now.problem() != nil {
		r.invalid++
	}
	if !now.good() {
		if i >= 0 {
			r.order = slices.Delete(r.order, i, i+1)
		}
		return true
	}
	if !r.fits(&now.peer) {
		return false
	}
	if i < 0 {
		i = r.position(key, now.created)
		r.order = slices.Insert(r.order, i, now)
	}
	r.order[i] = now
	r.count(&now.peer, 1)
	return true
}

// position is where a key of that create revision goes.
func (r *cache) position(key string, created int64) int {
	return sort.Search(len(r.order), func(i int) bool {
		return cmp.Or(cmp.Compare(r.order[i].created, created), cmp.Compare(r.order[i].key, key)) > 0
	})
}

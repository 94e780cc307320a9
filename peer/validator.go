package peer

import (
	"fmt"
	"net/netip"

	"github.com/cniblocks/cniblocks/inet"
)

// validator knows the peers that were accepted so far, and finds those that another one cannot live with.
type validator struct {
	entries []entry
	ranges  overlaps
	inside  [len(inet.Families)]int32 // the places around the endpoints of the entry that was asked for last
	first   []int32                   // the number of the first range of entry i; a last one is the count
	names   map[string]int32
	taken   [len(inet.Families)]taken
	repeats map[string]bool // names that several entries bear; made when it is first asked for
}

// taken is what the accepted entries have of one family, and which entry has it.
type taken struct {
	ends map[netip.AddrPort]int32
	macs map[inet.MAC]int32
	keys map[PublicKey]int32
}

func newValidator(entries []entry) *validator {
	v := &validator{
		entries: entries,
		first:   make([]int32, 0, len(entries)+1),
		names:   make(map[string]int32, len(entries)),
	}
	n := 0
	for _, e := range entries {
		n += min(len(e.Pods), MaxPrefixes)
	}
	ranges := make([]netip.Prefix, 0, n)
	for _, e := range entries {
		v.first = append(v.first, int32(len(ranges)))
		for _, r := range e.Pods[:min(len(e.Pods), MaxPrefixes)] {
			ranges = append(ranges, r.Masked())
		}
	}
	v.first = append(v.first, int32(len(ranges)))
	v.ranges = newOverlaps(ranges)
	return v
}

// party is how a problem names an entry.
func (v *validator) party(i int) string {
	if v.repeats == nil {
		v.repeats = map[string]bool{"": true}
		seen := make(map[string]bool, len(v.entries))
		for _, e := range v.entries {
			if seen[e.Name] {
				v.repeats[e.Name] = true
			}
			seen[e.Name] = true
		}
	}
	if name := v.entries[i].Name; !v.repeats[name] {
		return "peer " + quote(name)
	}
	return fmt.Sprintf("peers[%d]", i)
}

// conflicts finds what entry i cannot share with those that were accepted.
func (v *validator) conflicts(i int) Problems {
	var found Problems
	e := v.entries[i]
	if o, ok := v.names[e.Name]; ok && e.Name != "" {
		found = append(found, v.shared("name", quote(e.Name), o, "give every peer a name of its own"))
	}
	for n := v.first[i]; n < v.first[i+1]; n++ {
		at := v.ranges.at[n]
		if o := v.ranges.clash(at); o != none {
			found = append(found, v.overlap(claim{int32(i), at}, o, inet.FamilyOf(v.ranges.places[at].prefix.Addr())))
		}
	}
	for n, f := range inet.Families {
		end := e.Endpoint(f)
		found = append(found, v.sameEnd(n, end)...)
		v.inside[n] = v.ranges.inside(end.Addr)
		if o := v.ranges.up(v.inside[n]); o != none {
			found = append(found, v.overlap(claim{int32(i), -1}, o, f))
		}
	}
	return found
}

func (v *validator) sameEnd(n int, e Endpoint) Problems {
	var found Problems
	t := &v.taken[n]
	if o, ok := t.ends[netip.AddrPortFrom(e.Addr, e.Port)]; ok {
		found = append(found, v.shared("endpoint", e.Addr.String(), o, "give every peer an address of its own"))
	}
	if o, ok := t.macs[e.MAC]; ok {
		found = append(found, v.shared("mac", e.MAC.String(), o, "give every tunnel device a MAC of its own, or state none"))
	}
	if o, ok := t.keys[e.PublicKey]; ok {
		found = append(found, v.shared("publicKey", e.PublicKey.String(), o, "make a key on every node; a copied machine keeps its original's"))
	}
	return found
}

func (v *validator) shared(key, value string, with int32, remedy string) *Problem {
	return problem(key, value, "is also that of "+v.party(int(with)), "%s", remedy)
}

func (v *validator) overlap(mine, other claim, f inet.Family) *Problem {
	verb, remedy := "overlaps", "give every peer ranges of its own"
	switch {
	case mine.place < 0:
		verb = "lies in"
	case other.place < 0:
		verb = "holds"
	}
	if verb != "overlaps" {
		remedy = "let no range hold the address of a node: it would lead into the tunnel"
	}
	key, value := v.text(mine, f)
	otherKey, otherValue := v.text(other, f)
	return problem(key, value, fmt.Sprintf("%s %s %s of %s", verb, otherKey, otherValue, v.party(int(other.owner))), "%s", remedy)
}

func (v *validator) text(cl claim, f inet.Family) (key, value string) {
	if cl.place < 0 {
		return "endpoint", v.entries[cl.owner].Endpoint(f).Addr.String()
	}
	return "pods", v.ranges.places[cl.place].prefix.String()
}

// accept makes entry i, of which conflicts were asked for last, one that others are measured by.
func (v *validator) accept(i int) {
	e, owner := v.entries[i], int32(i)
	v.names[e.Name] = owner
	for n := v.first[i]; n < v.first[i+1]; n++ {
		v.ranges.hold(v.ranges.at[n], owner)
	}
	for n, f := range inet.Families {
		end, t := e.Endpoint(f), &v.taken[n]
		if end.Addr.IsValid() {
			put(&t.ends, netip.AddrPortFrom(end.Addr, end.Port), owner, len(v.entries))
			v.ranges.mark(v.inside[n], claim{owner, -1})
		}
		if end.MAC != (inet.MAC{}) {
			put(&t.macs, end.MAC, owner, len(v.entries))
		}
		if end.PublicKey != (PublicKey{}) {
			put(&t.keys, end.PublicKey, owner, len(v.entries))
		}
	}
}

// put makes the map when it is needed: most networks have one family and publish neither MACs nor keys.
func put[K comparable](m *map[K]int32, k K, owner int32, size int) {
	if *m == nil {
		*m = make(map[K]int32, size)
	}
	(*m)[k] = owner
}

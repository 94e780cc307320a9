package ipam

// table is a hash table of slots with linear probing, as it is in memory and on disk: the header, the homes, and what ran
// over the end of them.
type table []byte

// newTable has room for about four times as many slots as are put into it now.
func newTable(slots []slot) table {
	n := 1024
	for n < 4*len(slots) {
		n *= 2
	}
	t := make(table, (1+n)*slotSize)
	putHeader(t, n)
	next := map[key]int{} // so that an owner of many leases does not make this quadratic
	for _, s := range slots {
		i, ok := next[s.owner]
		if !ok {
			i = s.owner.home(n)
		}
		for ; i < t.len(); i++ {
			if _, inUse, _ := parseSlot(t.at(i)); !inUse {
				break
			}
		}
		if i == t.len() {
			t = append(t, make([]byte, slotSize)...)
		}
		s.put(t.at(i))
		next[s.owner] = i + 1
	}
	return t
}

// all lists the slots of a table of whatever origin.
func (t table) all() []slot {
	var slots []slot
	for i := range t.len() {
		if s, _, valid := parseSlot(t.at(i)); valid {
			slots = append(slots, s)
		}
	}
	return slots
}

func (t table) len() int        { return max(0, len(t)/slotSize-1) }
func (t table) at(i int) []byte { return t[(1+i)*slotSize : (2+i)*slotSize] }
func offset(i int) int64        { return int64(1+i) * slotSize }

// run is what lies in a table from the home of a key to the next empty slot, or to the end.
type run struct {
	start int // the home
	n     int // homes in the table
	bytes []byte
}

func (r run) len() int { return len(r.bytes) / slotSize }

// of lists the slots of a key.
func (r run) of(k key) []slot {
	var slots []slot
	for i := range r.len() {
		if s, _, valid := parseSlot(r.bytes[i*slotSize:]); valid && s.owner == k {
			slots = append(slots, s)
		}
	}
	return slots
}

// without is the run less some slots, and less garbage, the others moved up. It is as long as r.
func (r run) without(gone func(slot) bool) run {
	out := run{r.start, r.n, make([]byte, len(r.bytes))}
	for i := range r.len() {
		s, _, valid := parseSlot(r.bytes[i*slotSize:])
		if !valid || gone(s) {
			continue
		}
		j := max(0, s.owner.home(r.n)-r.start)
		for out.bytes[j*slotSize] != 0 {
			j++
		}
		s.put(out.bytes[j*slotSize : (j+1)*slotSize])
	}
	return out
}

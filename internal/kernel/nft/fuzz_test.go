//go:build linux

package nft

import "testing"

// FuzzAttributes reads what no kernel would send.
func FuzzAttributes(f *testing.F) {
	rule := attrs{}
	rule.str(1, "table")
	rule.nest(4, func(a *attrs) {
		*a = append(*a, Compat{Comment: "c", Established: true, Target: "ACCEPT"}.Exprs().raw...)
	})
	rule.put(7, comment("text"))
	f.Add([]byte(rule))
	f.Add([]byte(elements([]Element{{Key: "abcd", End: true, Comment: "c"}})))
	f.Fuzz(func(t *testing.T, b []byte) {
		total := 0
		for _, v := range each(b) {
			total += len(v)
		}
		if total > len(b) {
			t.Fatalf("values of %d bytes in a message of %d", total, len(b))
		}
		r := readRule(IPv4, b)
		_ = r.Compat()
		if r.Exprs.String() != readRule(IPv4, b).Exprs.String() {
			t.Fatal("the same message reads in two ways")
		}
		for _, e := range readElements(b) {
			if len(e.Key) > len(b) {
				t.Fatal("a key longer than the message")
			}
		}
		readChain(INet, b)
		readSet(INet, b)
	})
}

package peer

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func randomRanges(rng *rand.Rand, n int) []netip.Prefix {
	var ranges []netip.Prefix
	for range n {
		a := netip.AddrFrom4([4]byte{10, byte(rng.IntN(4)), byte(rng.IntN(4) * 64), byte(rng.IntN(4) * 64)})
		if rng.IntN(3) == 0 {
			a = netip.AddrFrom16([16]byte{0xfd, byte(rng.IntN(4)), byte(rng.IntN(4) * 64)})
		}
		ranges = append(ranges, netip.PrefixFrom(a, 6+rng.IntN(27)).Masked())
	}
	return ranges
}

func randomAddr(rng *rand.Rand) netip.Addr {
	if rng.IntN(3) == 0 {
		return netip.AddrFrom16([16]byte{0xfd, byte(rng.IntN(5)), byte(rng.IntN(256)), 15: byte(rng.IntN(2))})
	}
	return netip.AddrFrom4([4]byte{10, byte(rng.IntN(5)), byte(rng.IntN(256)), byte(rng.IntN(256))})
}

func TestEachPlaceStandsBelowTheSmallestRangeAroundIt(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		ranges := randomRanges(rng, 60)
		f := newOverlaps(ranges)
		// smallest is the narrowest of all ranges that fits, the zero Prefix if none does.
		smallest := func(fits func(netip.Prefix) bool) (best netip.Prefix) {
			for _, r := range ranges {
				if fits(r) && (!best.IsValid() || r.Bits() > best.Bits()) {
					best = r
				}
			}
			return best
		}
		prefix := func(at int32) netip.Prefix {
			if at < 0 {
				return netip.Prefix{}
			}
			return f.places[at].prefix
		}
		for n, r := range ranges {
			require.Equal(t, r, prefix(f.at[n]))
			around := smallest(func(q netip.Prefix) bool { return q.Bits() < r.Bits() && q.Contains(r.Addr()) })
			require.Equal(t, around, prefix(f.places[f.at[n]].up), "seed %d: around %s", seed, r)
		}
		for range 100 {
			a := randomAddr(rng)
			around := smallest(func(q netip.Prefix) bool { return q.Contains(a) })
			require.Equal(t, around, prefix(f.inside(a)), "seed %d: around %s", seed, a)
		}
	}
}

func TestAClashIsFoundIfAndOnlyIfThereIsOne(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 2))
		ranges := randomRanges(rng, 60)
		f := newOverlaps(ranges)
		var held []int32 // of range n the owner is n
		ends := map[int32]netip.Addr{}
		for n := range int32(len(ranges)) {
			clashes := map[claim]bool{}
			for _, h := range held {
				if ranges[h].Overlaps(ranges[n]) {
					clashes[claim{h, f.at[h]}] = true
				}
			}
			for owner, a := range ends {
				if ranges[n].Contains(a) {
					clashes[claim{owner, -1}] = true
				}
			}
			got := f.clash(f.at[n])
			if len(clashes) == 0 {
				require.Equal(t, none, got, "seed %d", seed)
				held = append(held, n)
				f.hold(f.at[n], n)
			} else {
				require.Contains(t, clashes, got, "seed %d", seed)
			}
			a := randomAddr(rng)
			if f.up(f.inside(a)) == none {
				f.mark(f.inside(a), claim{1000 + n, -1})
				ends[1000+n] = a
			}
		}
	}
}

func TestAnEmptyOverlapsHoldsNothing(t *testing.T) {
	t.Parallel()
	f := newOverlaps(nil)
	require.EqualValues(t, -1, f.inside(netip.MustParseAddr("10.0.0.1")))
	require.Equal(t, none, f.up(-1))
	f.mark(-1, claim{1, -1})

	f = newOverlaps([]netip.Prefix{{}, netip.MustParsePrefix("10.0.0.0/8"), {}})
	require.Equal(t, none, f.clash(f.at[0]), "an invalid range clashes with nothing")
	require.EqualValues(t, -1, f.inside(netip.Addr{}))
	require.EqualValues(t, -1, f.inside(netip.MustParseAddr("::1")))
	require.EqualValues(t, f.at[1], f.inside(netip.MustParseAddr("10.1.2.3")))
}

//go:build linux

package overlay

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/peer"
)

func randomRange(r *rand.Rand) netip.Prefix {
	a := netip.AddrFrom4([4]byte{10, byte(r.IntN(4)), byte(r.IntN(4) << 6), byte(r.IntN(4) << 6)})
	return netip.PrefixFrom(a, 14+r.IntN(18)).Masked()
}

func TestClaimsFindAnOverlapWheneverThereIsOne(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var c claims
		var naive []netip.Prefix
		for range 30 {
			p := randomRange(r)
			if len(naive) > 0 && r.IntN(4) == 0 {
				i := r.IntN(len(naive))
				c.remove(naive[i])
				naive = slices.Delete(naive, i, i+1)
			}
			_, clash := c.at(p)
			overlaps := slices.ContainsFunc(naive, p.Overlaps)
			require.Equal(t, overlaps, clash != nil, "%s in %v", p, naive)
			if clash == nil {
				c.add(p, "x")
				naive = append(naive, p)
			}
		}
		all := slices.Clone(c)
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		require.True(t, all.disjoint())
		require.Equal(t, c, all)
		require.False(t, append(all, claim{r: c[0].r}).disjoint())
	}
}

func TestADifferenceTurnsTheOldListIntoTheNew(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(5, 6))
	random := func(i int) peer.Peer {
		return peer.Peer{Name: fmt.Sprint(i), Pods: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), byte(r.IntN(2)), 0}), 24)}}
	}
	for range 5000 {
		var list []peer.Peer
		for i := range 20 {
			if r.IntN(3) > 0 {
				list = append(list, random(i))
			}
		}
		n := &members{self: "7"}
		n.take(list)
		next := slices.Clone(list)
		for range r.IntN(5) {
			switch i := r.IntN(len(next) + 1); {
			case i == len(next):
				next = append(next, random(40+r.IntN(100)))
			case r.IntN(3) == 0:
				next = slices.Delete(next, i, i+1)
			case r.IntN(3) == 0:
				next = slices.Insert(next, i, random(40+r.IntN(100)))
			case r.IntN(5) == 0:
				rand.Shuffle(len(next), func(i, j int) { next[i], next[j] = next[j], next[i] })
			default:
				next[i].V4.Port++
			}
		}
		steps, ok := n.difference(next)
		if !ok {
			continue
		}
		n.relist(steps)
		want := &members{self: "7"}
		want.take(next)
		require.Equal(t, len(want.list), len(n.list))
		for i := range want.list {
			require.True(t, want.list[i].Equal(n.list[i]), "place %d", i)
		}
		again, ok := n.difference(next)
		require.True(t, ok)
		require.Empty(t, again)
	}
}

func TestAPathIsTheLongestPrefixOfTheLowestMetric(t *testing.T) {
	t.Parallel()
	u := &underlay{links: map[int]rtnl.Link{1: {Index: 1, Name: "eth0", MTU: 1500, Flags: alive}, 2: {Index: 2, Name: "eth1", MTU: 9000, Flags: alive}, 3: {Index: 3, Name: "eth2", MTU: 1500}},
		local: map[netip.Addr]int{netip.MustParseAddr("192.0.2.1"): 1}, byDst: map[netip.Prefix]rtnl.Route{}, plain: true}
	add := func(dst string, link int, via string, metric, mtu uint32) {
		r := rtnl.Route{Dst: netip.MustParsePrefix(dst), Link: link, Metric: metric, MTU: mtu, Type: unix.RTN_UNICAST}
		if via != "" {
			r.Via = netip.MustParseAddr(via)
		}
		u.add(r)
	}
	add("0.0.0.0/0", 1, "192.0.2.254", 100, 0)
	add("192.0.2.0/24", 1, "", 0, 0)
	add("198.51.100.0/24", 1, "192.0.2.9", 20, 0)
	add("198.51.100.0/24", 2, "", 10, 1400)
	add("203.0.113.0/24", 3, "", 0, 0)
	u.bits[0] = []int{24, 0}
	for to, want := range map[string]path{
		"8.8.8.8":      {link: 1, mtu: 1500, via: netip.MustParseAddr("192.0.2.254")},
		"192.0.2.7":    {link: 1, mtu: 1500},
		"198.51.100.7": {link: 2, mtu: 1400},
	} {
		got, ok := u.compute(netip.MustParseAddr(to))
		require.True(t, ok)
		require.Equal(t, want, got, to)
	}
	got, _ := u.compute(netip.MustParseAddr("203.0.113.7"))
	require.ErrorContains(t, got.err, "eth2, which is down")
	got, _ = u.compute(netip.MustParseAddr("192.0.2.1"))
	require.ErrorContains(t, got.err, "192.0.2.1 is an address of this node")
	_, ok := u.compute(netip.MustParseAddr("2001:db8::1"))
	require.False(t, ok, "the kernel must be asked")
}

func TestARangeKeepsItsMetricAndLayersNeverMeet(t *testing.T) {
	t.Parallel()
	low, high := &site{o: &Options{}, d: direct{}}, &site{o: &Options{}, d: &vxlan{}}
	seen := map[uint32]int{}
	for i := range 10000 {
		dst := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
		a, b := low.metric(dst), high.metric(dst)
		require.True(t, low.inLayer(a) && high.inLayer(b))
		require.False(t, high.inLayer(a) || low.inLayer(b))
		seen[a]++
	}
	for m, n := range seen {
		require.Less(t, n, 16, "metric %d is that of too many ranges", m)
	}
	require.Greater(t, len(seen), 5000)
}

func TestEveryKeyOfAConfigIsDescribedByTheEncapsulationsThatHaveIt(t *testing.T) {
	t.Parallel()
	var c Config
	described := map[any]string{}
	for key := range Keys() {
		require.Empty(t, described[key.Value(&c)], key.Name)
		described[key.Value(&c)] = key.Name
	}
	v := reflect.ValueOf(&c).Elem()
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "-" && name != "encap" {
			require.Equal(t, name, described[v.Field(i).Addr().Interface()], "no encapsulation describes the field %s", f.Name)
		}
	}
	for _, k := range kinds {
		e, err := Config{Encap: k.name}.Encapsulation()
		require.NoError(t, err)
		require.Equal(t, k.name, e.Name())
	}
}

// TestTheDigestChangesWithEveryOption changes one field after the other, at any depth.
func TestTheDigestChangesWithEveryOption(t *testing.T) {
	t.Parallel()
	prefix := netip.MustParsePrefix("10.0.0.0/8")
	options := Options{Network: "n", Node: peer.Peer{Name: "a", Pods: []netip.Prefix{prefix}, Reach: peer.Reach{V4: peer.Endpoint{Addr: prefix.Addr()}}},
		Prefixes: []netip.Prefix{prefix}, Families: []inet.Family{inet.IPv4}}
	for _, encap := range []Encap{VXLAN{}, GRE{}, IPIP{}, Geneve{}, WireGuard{}, Direct{}} {
		seen := map[string]string{}
		put := func(o *Options, e Encap, what string) {
			d := digest(o, e)
			require.Len(t, d, 64)
			require.NotContains(t, seen, d, "%s and %s", what, seen[d])
			seen[d] = what
		}
		put(&options, encap, encap.Name())
		for what, change := range leaves(reflect.TypeFor[Options](), "Options") {
			if what == "Options.NS" || what == "Options.StateDir" {
				continue // where, and not what
			}
			o := options
			o.Node.Pods, o.Prefixes, o.Families = slices.Clone(options.Node.Pods), slices.Clone(options.Prefixes), slices.Clone(options.Families)
			change(reflect.ValueOf(&o).Elem())
			put(&o, encap, what)
		}
		for what, change := range leaves(reflect.TypeOf(encap), encap.Name()) {
			v := reflect.New(reflect.TypeOf(encap)).Elem()
			v.Set(reflect.ValueOf(encap))
			change(v)
			put(&options, v.Interface().(Encap), what)
		}
	}
}

// leaves are the fields of a struct and of those inside, and what changes each.
func leaves(t reflect.Type, at string) map[string]func(reflect.Value) {
	all := map[string]func(reflect.Value){}
	for i := range t.NumField() {
		f := t.Field(i)
		name := at + "." + f.Name
		if f.Type.Kind() == reflect.Struct && f.Type != reflect.TypeFor[netip.Addr]() && f.Type != reflect.TypeFor[netip.Prefix]() {
			for what, change := range leaves(f.Type, name) {
				all[what] = func(v reflect.Value) { change(v.Field(i)) }
			}
			continue
		}
		all[name] = func(v reflect.Value) { other(v.Field(i)) }
	}
	return all
}

// other makes a value another one.
func other(v reflect.Value) {
	switch {
	case v.CanInt():
		v.SetInt(v.Int() + 1)
	case v.CanUint():
		v.SetUint(v.Uint() + 1)
	case v.Kind() == reflect.Bool:
		v.SetBool(!v.Bool())
	case v.Kind() == reflect.String:
		v.SetString(v.String() + `" x`)
	case v.Kind() == reflect.Array:
		other(v.Index(v.Len() - 1))
	case v.Kind() == reflect.Slice:
		v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
	case v.Type() == reflect.TypeFor[netip.Addr]():
		v.Set(reflect.ValueOf(netip.MustParseAddr("192.0.2.99")))
	}
}

//go:build linux

package rtnl_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/netns"
)

func TestABatchGoesOnAfterAFailureAndReportsEach(t *testing.T) {
	t.Parallel()
	_, c, other := world(t)
	err := c.Do(
		rtnl.NewBridge(rtnl.Bridge{Name: "a"}),
		rtnl.NewBridge(rtnl.Bridge{Name: "a"}),
		rtnl.SetLink(rtnl.Set{Name: "nowhere", Up: true}),
		rtnl.NewBridge(rtnl.Bridge{Name: "b"}),
	)
	require.ErrorIs(t, err, fs.ErrExist)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "add bridge a: file exists")
	require.ErrorContains(t, err, "change link nowhere: no such device")
	for _, name := range []string{"a", "b"} {
		_, err := other.LinkByName(name)
		require.NoError(t, err)
	}
	require.NoError(t, c.Do())
	require.NoError(t, rtnl.Except(err, fs.ErrExist, fs.ErrNotExist))
	rest := rtnl.Except(err, fs.ErrExist)
	require.ErrorIs(t, rest, fs.ErrNotExist)
	require.NotErrorIs(t, rest, fs.ErrExist)
	require.NoError(t, rtnl.Except(nil, fs.ErrExist))
}

func TestAStreamOfMessagesNamesEachThatFails(t *testing.T) {
	t.Parallel()
	_, c, _ := world(t)
	index := bridgeUp(t, c, "br0")
	const n, every = 1000, 50
	route := func(i int) rtnl.Route {
		r := rtnl.Route{Dst: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24), Link: index, Proto: 117}
		if i%every == 7 {
			r.Link = 4711
		}
		return r
	}
	err := c.Stream(func(yield func(*rtnl.Msg) bool) {
		for i := range n {
			if !yield(rtnl.NewRoute(route(i))) {
				return
			}
		}
	})
	for i := 7; i < n; i += every {
		require.ErrorContains(t, err, "add "+rtnl.WithNames(route(i).String(), func(int) string { return "" }))
	}
	ours, err := c.Routes(rtnl.RouteFilter{Proto: 117})
	require.NoError(t, err)
	require.Len(t, ours, n-n/every)

	require.Panics(t, func() {
		_ = c.Stream(func(yield func(*rtnl.Msg) bool) {
			yield(rtnl.DelRoute(route(0)))
			panic("half way")
		})
	})
	require.NoError(t, c.Do(rtnl.GetLink("br0", nil)))
	again, err := c.RoutesInto(ours, rtnl.RouteFilter{Proto: 117})
	require.NoError(t, err)
	require.Len(t, again, n-n/every, "what was in the batch is not sent later")
	require.Same(t, &ours[0], &again[0], "the slice is used again")
}

func TestEveryErrnoThatSaysNotThereIsErrNotExist(t *testing.T) {
	t.Parallel()
	_, c, _ := world(t)
	index := bridgeUp(t, c, "br0")
	dst := netip.MustParsePrefix("192.0.2.0/24")
	for name, m := range map[string]*rtnl.Msg{
		"link by name":  rtnl.DelLink("nowhere"),
		"link by index": rtnl.DelLinkIndex(4711),
		"address":       rtnl.DelAddr(rtnl.Addr{Link: index, Prefix: netip.MustParsePrefix("192.0.2.1/24")}),
		"IPv6 address":  rtnl.DelAddr(rtnl.Addr{Link: index, Prefix: netip.MustParsePrefix("2001:db8::1/64")}),
		"route":         rtnl.DelRoute(rtnl.Route{Dst: dst, Link: index}),
		"IPv6 route":    rtnl.DelRoute(rtnl.Route{Dst: netip.MustParsePrefix("2001:db8::/64"), Link: index}),
		"route's table": rtnl.DelRoute(rtnl.Route{Dst: dst, Link: index, Table: 4711}),
	} {
		err := c.Do(m)
		require.ErrorIs(t, err, fs.ErrNotExist, name)
		require.NoError(t, rtnl.Except(err, fs.ErrNotExist), name)
	}
}

func TestARefusalCarriesTheKernelsOwnWords(t *testing.T) {
	t.Parallel()
	_, c, _ := world(t)
	err := c.Do(rtnl.NewRoute(rtnl.Route{Dst: netip.MustParsePrefix("192.0.2.0/24"), Via: netip.MustParseAddr("198.51.100.1")}))
	var e *rtnl.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, unix.ENETUNREACH, e.Errno)
	require.NotEmpty(t, e.Text)
	require.ErrorContains(t, err, "add route 192.0.2.0/24 via 198.51.100.1: network is unreachable ("+e.Text+")")
	require.ErrorIs(t, err, unix.ENETUNREACH)
	require.NotErrorIs(t, err, fs.ErrNotExist)
}

func TestThousandsOfMessagesGoOutInPartsAndAllArrive(t *testing.T) {
	t.Parallel()
	_, c, other := world(t)
	index := bridgeUp(t, c, "br0")
	const n = 5000
	add, del := make([]*rtnl.Msg, n), make([]*rtnl.Msg, n)
	for i := range n {
		r := rtnl.Route{Dst: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24), Link: index, Proto: 117}
		add[i], del[i] = rtnl.NewRoute(r), rtnl.DelRoute(r)
	}
	require.NoError(t, c.Do(add...))
	routes, err := other.RouteListFiltered(unix.AF_INET, &netlink.Route{Protocol: 117}, netlink.RT_FILTER_PROTOCOL)
	require.NoError(t, err)
	require.Len(t, routes, n)
	ours, err := c.Routes(rtnl.RouteFilter{Proto: 117})
	require.NoError(t, err)
	require.Len(t, ours, n)
	require.NoError(t, c.Do(del...))
	ours, err = c.Routes(rtnl.RouteFilter{Proto: 117})
	require.NoError(t, err)
	require.Empty(t, ours)
}

func TestThousandsOfRefusalsAreAllReported(t *testing.T) {
	t.Parallel()
	_, c, _ := world(t)
	const n = 3000
	msgs := make([]*rtnl.Msg, n)
	for i := range msgs {
		msgs[i] = rtnl.DelLinkIndex(100000 + i)
	}
	err := c.Do(msgs...)
	require.NoError(t, rtnl.Except(err, fs.ErrNotExist), "they are refusals and nothing else")
	seen := 0
	var count func(error)
	count = func(err error) {
		if j, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range j.Unwrap() {
				count(e)
			}
			return
		}
		seen++
	}
	count(err)
	require.Equal(t, n, seen)
	_, err = c.LinkByName("lo")
	require.NoError(t, err, "the socket is still good")
}

func TestADumpThatTheKernelInterruptsIsRepeatedUntilItIsWhole(t *testing.T) {
	t.Parallel()
	ns, c, _ := world(t)
	const n = 60 // more than one message of the kernel holds
	msgs := make([]*rtnl.Msg, n)
	for i := range msgs {
		msgs[i] = rtnl.NewBridge(rtnl.Bridge{Name: fmt.Sprint("br", i)})
	}
	require.NoError(t, c.Do(msgs...))
	stop, done := make(chan struct{}), make(chan error)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			err := c.Do(rtnl.NewVeth(rtnl.End{Name: "x"}, rtnl.End{Name: "y"}, ns.Fd(), 0, func(rtnl.Link) {}))
			if err = errors.Join(err, c.Do(rtnl.DelLink("x"))); err != nil {
				done <- err
				return
			}
		}
	}()
	own, err := netns.Open(fmt.Sprintf("/proc/self/fd/%d", ns.Fd())) // a socket of its own, so that both are at work at once
	require.NoError(t, err)
	defer own.Close()
	reader, err := rtnl.Open(own)
	require.NoError(t, err)
	for range 40 {
		links, err := reader.Links("")
		require.NoError(t, err)
		found := map[string]bool{}
		for _, l := range links {
			found[l.Name] = true
		}
		for i := range n {
			require.True(t, found[fmt.Sprint("br", i)], "br%d is missing in a dump of %d links", i, len(links))
		}
	}
	close(stop)
	require.NoError(t, <-done)
}

func TestSeveralGoroutinesShareASocket(t *testing.T) {
	t.Parallel()
	ns, c, other := world(t)
	again, err := rtnl.Open(ns)
	require.NoError(t, err)
	require.Same(t, c, again)
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() {
			name := fmt.Sprint("br", i)
			errs[i] = c.Do(rtnl.NewBridge(rtnl.Bridge{Name: name}))
			for range 20 {
				l, err := c.LinkByName(name)
				if err == nil && l.Name != name {
					err = fmt.Errorf("asked for %s, got %s", name, l.Name)
				}
				_, dump := c.Addrs(0)
				errs[i] = errors.Join(errs[i], err, dump)
			}
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	links, err := other.LinkList()
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(links), len(errs)+1)
}

//go:build linux

package shape_test

import (
	"io/fs"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/shape"
)

func TestMain(m *testing.M) { nstest.Main(m) }

const mbit = 1_000_000

var nodeIP, podIP = netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.1.0.2")

func dev(owner string) shape.Device {
	return shape.Device{Name: "host", Owner: link.Alias("net", owner, "eth0")}
}

// pair is a node whose device host leads to the pod.
func pair(t *testing.T) (node, pod *netns.NS) {
	t.Helper()
	nstest.Need(t, nstest.Shaping)
	node, pod = nstest.New(t), nstest.New(t)
	nstest.Link(t, nstest.End{NS: node, Name: "host"}, nstest.End{NS: pod, Name: "eth0"})
	nstest.AddAddrs(t, node, "host", nodeIP.String()+"/24")
	nstest.AddAddrs(t, pod, "eth0", podIP.String()+"/24")
	return node, pod
}

func ensure(t *testing.T, ns *netns.NS, d shape.Device, l shape.Limits) link.Link {
	t.Helper()
	helper, err := shape.Ensure(t.Context(), ns, d, l)
	require.NoError(t, err)
	require.NoError(t, shape.Check(t.Context(), ns, d, l))
	return helper
}

// holds sends for some two seconds.
func holds(t *testing.T, from, to *netns.NS, at netip.Addr, rate float64) {
	t.Helper()
	got := nstest.Rate(t, from, to, at, int(rate/4))
	require.Less(t, got, 1.1*rate)
	require.Greater(t, got, rate/4)
}

func TestEachDirectionKeepsToItsRateAndIsFreeAgainAfterwards(t *testing.T) {
	t.Parallel()
	node, pod := pair(t)
	nstest.Settle(t, node)
	before := all(t, node)
	helper := ensure(t, node, dev("c"), shape.Limits{Out: shape.Limit{Rate: 4 * mbit}, In: shape.Limit{Rate: 8 * mbit}})
	require.Equal(t, []any{"ifb", dev("c").Owner, 1500}, []any{helper.Kind, helper.Alias, helper.MTU})
	holds(t, node, pod, podIP, 4*mbit)
	holds(t, pod, node, nodeIP, 8*mbit)

	l := shape.Limits{In: shape.Limit{Rate: 2 * mbit, Burst: 20_000}} // the other one is lifted
	require.Equal(t, helper.Index, ensure(t, node, dev("c"), l).Index)
	holds(t, pod, node, nodeIP, 2*mbit)
	require.Greater(t, nstest.Rate(t, node, pod, podIP, mbit), 20.0*mbit)
	have, err := shape.Get(t.Context(), node, "host")
	require.NoError(t, err)
	require.Zero(t, have.Out)
	require.Equal(t, l.In.Rate, have.In.Rate)
	require.InEpsilon(t, l.In.Burst, have.In.Burst, 0.001)

	for range 2 {
		require.NoError(t, shape.Revoke(t.Context(), node, dev("c")))
		require.Equal(t, before, all(t, node))
	}
	require.Greater(t, nstest.Rate(t, pod, node, nodeIP, mbit), 20.0*mbit)
	_, err = shape.Get(t.Context(), node, "gone")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestTheLimitOfAnAdministratorStandsBeforeAnyOther(t *testing.T) {
	t.Parallel()
	node, pod := pair(t)
	asked := shape.Limits{Out: shape.Limit{Rate: mbit}, In: shape.Limit{Rate: mbit}}
	ensure(t, node, dev("c"), asked)
	held := shape.Limits{Out: shape.Limit{Rate: 6 * mbit, Held: true}, In: shape.Limit{Held: true}}
	for range 2 {
		ensure(t, node, dev("c"), held)
		require.NoError(t, shape.Check(t.Context(), node, dev("c"), asked))
		have, err := shape.Get(t.Context(), node, "host")
		require.NoError(t, err)
		require.Equal(t, []any{held.Out.Rate, true, held.In}, []any{have.Out.Rate, have.Out.Held, have.In})
	}
	holds(t, node, pod, podIP, 6*mbit)
	require.Greater(t, nstest.Rate(t, pod, node, nodeIP, 2*mbit), 30.0*mbit)
	ensure(t, node, dev("c"), shape.Limits{In: shape.Limit{Rate: 3 * mbit, Held: true}})
	holds(t, pod, node, nodeIP, 3*mbit)
}

func TestCheckNamesEachDifference(t *testing.T) {
	t.Parallel()
	node, _ := pair(t)
	l := shape.Limits{Out: shape.Limit{Rate: mbit, Burst: 50_000}, In: shape.Limit{Rate: 2 * mbit}}
	run := func(args string) { nstest.Run(t, node, strings.Fields(args)...) }
	helper := ensure(t, node, dev("c"), l)
	wrong := func(says ...string) {
		t.Helper()
		err := shape.Check(t.Context(), node, dev("c"), l)
		for _, s := range says {
			require.ErrorContains(t, err, s)
		}
		_, err = shape.Ensure(t.Context(), node, dev("c"), l)
		require.NoError(t, err, "it is mended")
		require.NoError(t, shape.Check(t.Context(), node, dev("c"), l))
	}
	run("tc qdisc change dev host root handle 1: tbf rate 1mbit burst 60000 limit 100000")
	wrong("what it sends: the burst is", "not 50000")
	run("tc qdisc del dev host root")
	run("tc qdisc del dev " + helper.Name + " root")
	wrong("what it sends: there is no limit; want 1 Mbit/s", "what it receives: there is no limit; want 2 Mbit/s")
	run("tc qdisc del dev host ingress")
	wrong("no filter redirects it to the device " + helper.Name)
	run("ip link del " + helper.Name) // the filter stays, and leads nowhere
	wrong("the device " + helper.Name + " is missing")
	require.NoError(t, nstest.Ping(t.Context(), node, podIP, ping.Options{}))
	run("ip link set " + helper.Name + " down")
	wrong("is down")
}

func TestWhatCannotWorkIsRefusedBeforeAnyChange(t *testing.T) {
	t.Parallel()
	node, _ := pair(t)
	nstest.Settle(t, node)
	before := all(t, node)
	refuse := func(want string, d shape.Device, l shape.Limits) {
		t.Helper()
		_, err := shape.Ensure(t.Context(), node, d, l)
		require.ErrorContains(t, err, want)
		require.Equal(t, before, all(t, node))
	}
	some := shape.Limit{Rate: mbit}
	refuse("want at least 1514 bytes, which are 12112 bit", dev("c"), shape.Limits{Out: some, In: shape.Limit{Rate: mbit, Burst: 1513}})
	refuse("a rate of 7 bit/s", dev("c"), shape.Limits{In: some, Out: shape.Limit{Rate: 7}})
	refuse("without a rate", dev("c"), shape.Limits{In: some, Out: shape.Limit{Burst: 9000}})
	refuse("at most 4294967295", dev("c"), shape.Limits{In: shape.Limit{Rate: mbit, Burst: 1 << 32}})
	refuse("there is no such interface", shape.Device{Name: "gone", Owner: "x"}, shape.Limits{In: some})
	refuse("it has no owner", shape.Device{Name: "host"}, shape.Limits{In: some})
	refuse("at most 255", shape.Device{Name: "host", Owner: strings.Repeat("x", 256)}, shape.Limits{In: some})
	nstest.Run(t, node, "tc", "qdisc", "add", "dev", "host", "root", "handle", "7:", "pfifo")
	before = all(t, node)
	refuse("tc qdisc del dev host root", dev("c"), shape.Limits{Out: some, In: some})
	require.NoError(t, shape.Revoke(t.Context(), node, dev("c")))
	require.Contains(t, nstest.Run(t, node, "tc", "qdisc", "show", "dev", "host"), "pfifo 7:")
}

func TestAHelperOfAnotherOwnerAndFiltersOfOthersAreLeftAlone(t *testing.T) {
	t.Parallel()
	node, _ := pair(t)
	nstest.Link(t, nstest.End{NS: node, Name: "second"}, nstest.End{NS: nstest.New(t), Name: "eth1"})
	one, two := dev("c"), shape.Device{Name: "second", Owner: link.Alias("net", "c", "eth1"), Helper: "bwpshared"}
	one.Helper = "bwpshared"
	l := shape.Limits{In: shape.Limit{Rate: mbit}}
	require.Equal(t, "bwpshared", ensure(t, node, one, l).Name)
	other := ensure(t, node, two, l).Name
	require.NotEqual(t, "bwpshared", other)
	nstest.Run(t, node, "tc", "filter", "add", "dev", "second", "ingress", "protocol", "ip", "prio", "9", "u32", "match", "ip", "dst", "192.0.2.1", "action", "mirred", "egress", "mirror", "dev", "host")
	require.NoError(t, shape.Revoke(t.Context(), node, two))
	require.NoError(t, shape.Check(t.Context(), node, one, l))
	require.Contains(t, nstest.Run(t, node, "tc", "filter", "show", "dev", "second", "ingress"), "pref 9")
	_, err := link.Get(t.Context(), node, other)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestRetainRemovesTheHelpersOfOwnersThatAreGoneAndNothingElse(t *testing.T) {
	t.Parallel()
	node, _ := pair(t)
	nstest.Link(t, nstest.End{NS: node, Name: "second"}, nstest.End{NS: nstest.New(t), Name: "eth1"})
	l := shape.Limits{In: shape.Limit{Rate: mbit}}
	stale, live := dev("c"), shape.Device{Name: "second", Owner: link.Alias("net", "d", "eth0")}
	ensure(t, node, stale, l)
	ensure(t, node, live, l)
	require.NoError(t, shape.Retain(t.Context(), node, link.AliasPrefix("other"), nil))
	require.NoError(t, shape.Check(t.Context(), node, stale, l))
	require.NoError(t, shape.Retain(t.Context(), node, link.AliasPrefix("net"), []string{live.Owner}))
	require.Error(t, shape.Check(t.Context(), node, stale, l))
	require.NoError(t, shape.Check(t.Context(), node, live, l))
	require.NoError(t, nstest.Ping(t.Context(), node, podIP, ping.Options{}), "its filter went too")
	helpers, err := link.List(t.Context(), node, "ifb")
	require.NoError(t, err)
	require.Len(t, helpers, 1)
}

func TestTheListHasDevicesAndLostHelpers(t *testing.T) {
	t.Parallel()
	node, _ := pair(t)
	nstest.Link(t, nstest.End{NS: node, Name: "second"}, nstest.End{NS: nstest.New(t), Name: "eth1"})
	two := shape.Device{Name: "second", Owner: link.Alias("net", "d", "eth0")}
	one := ensure(t, node, dev("c"), shape.Limits{Out: shape.Limit{Rate: mbit}, In: shape.Limit{Rate: 2 * mbit, Held: true}}).Name
	lost := ensure(t, node, two, shape.Limits{In: shape.Limit{Rate: 3 * mbit}}).Name
	nstest.Run(t, node, "ip", "link", "del", "second")
	list, err := shape.List(t.Context(), node)
	require.NoError(t, err)
	require.Len(t, list, 2)
	for i := range list {
		list[i].Out.Burst, list[i].In.Burst = 0, 0
	}
	require.Equal(t, []shape.Limited{
		{Device: "host", Helper: one, Owner: dev("c").Owner, Limits: shape.Limits{Out: shape.Limit{Rate: mbit}, In: shape.Limit{Rate: 2 * mbit, Held: true}}},
		{Helper: lost, Owner: two.Owner, Limits: shape.Limits{In: shape.Limit{Rate: 3 * mbit}}},
	}, list)
}

func TestThisKernelIsTriedOut(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.Shaping)
	require.NoError(t, shape.Supported(t.Context()))
}

// all is what the namespace holds, its queueing disciplines included.
func all(t *testing.T, ns *netns.NS) string {
	t.Helper()
	return nstest.Dump(ns) + nstest.Run(t, ns, "tc", "qdisc", "show")
}

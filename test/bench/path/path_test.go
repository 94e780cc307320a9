//go:build linux

package main

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/test/bench/internal/report"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// pair is a lane over one veth pair.
func pair(t *testing.T, name, from, to string) *lane {
	t.Helper()
	one, two := nstest.New(t), nstest.New(t)
	a, b := netip.MustParsePrefix(from), netip.MustParsePrefix(to)
	nstest.Link(t, nstest.End{NS: one, Name: "eth0", Addrs: []string{from}}, nstest.End{NS: two, Name: "eth0", Addrs: []string{to}})
	return &lane{name: name, from: end{one, a.Addr()}, to: end{two, b.Addr()}}
}

func TestEveryMeasureWorksOverBothFamilies(t *testing.T) {
	t.Parallel()
	nstest.NeedRoot(t)
	for _, l := range []*lane{
		pair(t, "IPv4", "192.0.2.1/24", "192.0.2.2/24"), pair(t, "IPv6", "2001:db8::1/64", "2001:db8::2/64"),
	} {
		for _, m := range measures {
			v, err := m.run(l.from, l.to)
			require.NoError(t, err, "%s over %s", m.name, l.name)
			require.Positive(t, v, "%s over %s", m.name, l.name)
		}
	}
}

func TestUnreachableEndIsAnErrorAndNotASlowPath(t *testing.T) {
	t.Parallel()
	nstest.NeedRoot(t)
	l := pair(t, "", "192.0.2.1/24", "192.0.2.2/24")
	l.to.addr = netip.MustParseAddr("198.51.100.1")
	_, err := connectOnce(l.from, l.to, -1)
	require.ErrorIs(t, err, unix.ENETUNREACH)
}

func TestLanesTakeTurnsAndAreComparedToTheFirst(t *testing.T) {
	t.Parallel()
	nstest.NeedRoot(t)
	lanes := []*lane{
		pair(t, "first", "192.0.2.1/24", "192.0.2.2/24"), pair(t, "second", "192.0.2.1/24", "192.0.2.2/24"),
	}
	rec := report.Recorder{Base: "first"}
	require.NoError(t, takeTurns(&rec, "one node", lanes, 2))
	rep := report.Report{Rows: rec.Rows()}
	require.Len(t, rep.Rows, len(measures))
	for _, m := range measures {
		row := rep.Find("one node", m.name)
		require.Equal(t, 2, row.Cell("first").N)
		require.Nil(t, row.Cell("first").Ratio)
		require.NotNil(t, row.Cell("second").Ratio)
	}
	require.Error(t, takeTurns(&rec, "one node", lanes, 0))
}

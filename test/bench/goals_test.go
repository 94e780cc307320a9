//go:build linux

package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/test/bench/internal/report"
)

func judged(t *testing.T, rep *report.Report, name string) report.Goal {
	t.Helper()
	for _, g := range judge(rep) {
		if g.Name == name {
			return g
		}
	}
	t.Fatalf("no goal %q", name)
	return report.Goal{}
}

func cells(values ...any) []report.Cell {
	var all []report.Cell
	for i := 0; i < len(values); i += 2 {
		all = append(all, report.Cell{Arm: values[i].(string), Median: values[i+1].(float64)})
	}
	return all
}

func TestGoalsAreJudgedByTheRowsTheyName(t *testing.T) {
	t.Parallel()
	rep := &report.Report{Rows: []report.Row{
		{Scenario: "plain", Operation: "ADD", Cells: cells(report.Ours, 1.0, report.Reference, 5.0)},
		{Scenario: "snat", Operation: "DEL", Cells: cells(report.Ours, 1.0, report.Reference, 10.0)},
		{Scenario: "last-address", Operation: "ADD", Cells: cells(report.Ours, 4.5, report.Reference, 700.0, emptyPool, 3.0)},
		{Scenario: "leases 60000", Operation: "ADD", Cells: cells(report.Ours, 3.3, emptyPool, 3.0)},
		{Scenario: "overlay", Operation: "ADD", Cells: cells(overlay, 3.6, bridgeAlone, 3.0)},
	}}
	require.True(t, judged(t, rep, "ADD, plain").Pass())
	require.InDelta(t, 0.2, judged(t, rep, "ADD, plain").Value, 1e-9)
	require.False(t, judged(t, rep, "DEL with SNAT").Pass())
	require.InDelta(t, 1.5, judged(t, rep, "last free address of a /16, beyond the first").Value, 1e-9)
	require.InDelta(t, 1.1, judged(t, rep, "ADD beside 60 000 leases against an empty pool (ours / ours)").Value, 1e-9)
	require.False(t, judged(t, rep, "ADD through overlay against bridge alone (ours / ours)").Pass())
	require.False(t, judged(t, rep, "CHECK").Measured)
	require.False(t, judged(t, rep, "ADD through host-gw against bridge alone (ours / ours)").Measured)
}

func TestCountsAreJudgedByTheWorseOfPlainAndSNAT(t *testing.T) {
	t.Parallel()
	rep := &report.Report{Rows: []report.Row{
		{Scenario: "plain", Operation: "ADD", Cells: []report.Cell{{Arm: report.Ours, Processes: 1, NetlinkWrites: 4}}},
		{Scenario: "snat", Operation: "ADD", Cells: []report.Cell{{Arm: report.Ours, Processes: 1, NetlinkWrites: 7}}},
	}}
	require.True(t, judged(t, rep, "ADD: processes started").Pass())
	require.Equal(t, 7.0, judged(t, rep, "ADD: netlink writes").Value)
	require.False(t, judged(t, rep, "ADD: system calls").Measured)
}

func TestEveryReasonBelongsToAGoal(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for _, g := range goals {
		require.False(t, names[g.name], "twice: %s", g.name)
		names[g.name] = true
	}
	for name := range why {
		require.True(t, names[name], name)
	}
}

func TestSeriesFollowTheNumberInTheNameOfAScenario(t *testing.T) {
	t.Parallel()
	got := series([]report.Row{
		{Scenario: "pods 0", Operation: "ADD", Cells: cells(report.Ours, 1.0, report.Reference, 5.0)},
		{Scenario: "pods 100", Operation: "ADD", Cells: cells(report.Ours, 2.0, report.Reference, 9.0)},
		{Scenario: "pods 100, first on the node", Operation: "ADD", Cells: cells(report.Ours, 7.0)},
		{Scenario: "plain", Operation: "ADD", Cells: cells(report.Ours, 7.0)},
	})
	require.Equal(t, []report.Series{
		{Plot: "pods", Name: "ADD, ours", Points: []report.Point{{X: 0, Y: 1}, {X: 100, Y: 2}}},
		{Plot: "pods", Name: "ADD, reference", Points: []report.Point{{X: 0, Y: 5}, {X: 100, Y: 9}}},
	}, got)
	require.Equal(t, "vxlan: Set", series([]report.Row{
		{Scenario: "peers 10", Operation: "vxlan: Set", Cells: cells(report.Ours, 1.0)},
	})[0].Name, "with nobody to compare to, the arm goes without saying")
}

func TestBenchmarksOfTheOverlayPackageBecomeRows(t *testing.T) {
	t.Parallel()
	var rec report.Recorder
	recordPeers(&rec, `goos: linux
BenchmarkSetFromEmpty/vxlan/10000-2         	       5	  33000000 ns/op	        11.5 cpu-ms/op	 1234 B/op
BenchmarkSetFromEmpty/vxlan/10000-2         	       5	  35000000 ns/op	        12.5 cpu-ms/op	 1234 B/op
BenchmarkSetOneChange/vxlan/10000           	     100	    500000 ns/op
BenchmarkSetFromEmpty/vxlan-gpe/10000-2     	       5	  70000000 ns/op
BenchmarkOther/vxlan/10000-2                	       5	  1 ns/op
PASS
`)
	rep := &report.Report{Rows: rec.Rows()}
	require.Len(t, rep.Rows, 3)
	require.InDelta(t, 34, judged(t, rep, "overlay, 10 000 peers: Set from empty").Value, 1e-9)
	require.True(t, judged(t, rep, "overlay, 10 000 peers: Set with one change").Pass())
	require.InDelta(t, 12, rep.Find("peers 10000", "vxlan: Set from empty").Cell(report.Ours).CPU, 1e-9)
	require.InDelta(t, 0.001234, rep.Find("peers 10000", "vxlan: Set from empty").Cell(report.Ours).Allocated, 1e-9)
}

func TestSystemCallsOfABenchmarkAreThoseBetweenTwoLooksAtTheCPUTime(t *testing.T) {
	t.Parallel()
	var rec report.Recorder
	rec.Add("peers 1000", "vxlan: Set from empty", report.Ours, "ms", report.Measure{Value: 1})
	rec.Add("peers 1000", "host-gw: Set with one change", report.Ours, "ms", report.Measure{Value: 1})
	require.NoError(t, countPeers(&rec, strings.NewReader(`7 openat(AT_FDCWD, "/x", O_RDONLY) = 3 <0.000010>
7 getrusage(RUSAGE_SELF, {ru_utime={tv_sec=0, tv_usec=1}, ...}) = 0 <0.000010>
7 sendto(5, [[{nlmsg_len=44}]], 44, 0, {sa_family=AF_NETLINK, nl_pid=0, nl_groups=00000000}, 12) = 44 <0.000100>
8 futex(0xc000, FUTEX_WAKE_PRIVATE, 1) = 1 <0.000010>
7 recvmsg(5, {msg_namelen=12}, 0) = 20 <0.000010>
7 getrusage(RUSAGE_SELF, {ru_utime={tv_sec=0, tv_usec=2}, ...}) = 0 <0.000010>
7 close(3) = 0 <0.000010>
7 getrusage(RUSAGE_SELF, {ru_utime={tv_sec=0, tv_usec=3}, ...}) = 0 <0.000010>
7 sendto(5, [[{nlmsg_len=44}]], 44, 0, {sa_family=AF_NETLINK, nl_pid=0, nl_groups=00000000}, 12) = 44 <0.000100>
7 recvmsg(5, {msg_namelen=12}, 0) = 20 <0.000010>
7 getrusage(RUSAGE_SELF, {ru_utime={tv_sec=0, tv_usec=4}, ...}) = 0 <0.000010>
7 write(1, "BenchmarkSetFromEmpty/vxlan/1000-2         \t       2\t   1 ns/op\n", 60) = 60 <0.000010>
7 getrusage(RUSAGE_SELF, {ru_utime={tv_sec=0, tv_usec=5}, ...}) = 0 <0.000010>
7 unlink("/x") = 0 <0.000010>
7 getrusage(RUSAGE_SELF, {ru_utime={tv_sec=0, tv_usec=6}, ...}) = 0 <0.000010>
7 write(1, "BenchmarkSetOneChange/host-gw/1000-2         \t       1\t", 60) = 60 <0.000010>
`)))
	rep := &report.Report{Rows: rec.Rows()}
	all := rep.Find("peers 1000", "vxlan: Set from empty").Cell(report.Ours)
	require.Equal(t, 2, all.Syscalls, "the run with the fewest")
	require.Equal(t, 1, all.NetlinkWrites)
	require.Equal(t, 1, rep.Find("peers 1000", "host-gw: Set with one change").Cell(report.Ours).Syscalls)
}

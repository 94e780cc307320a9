package main

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func laneOf(t *testing.T, name, events string) *lane {
	t.Helper()
	l := newLane(name)
	require.NoError(t, l.read(strings.NewReader(events), io.Discard, func(string) {}))
	return l
}

const here = `
{"Action":"start","Package":"m/a"}
{"Action":"run","Package":"m/a","Test":"TestRuns"}
{"Action":"output","Package":"m/a","Test":"TestRuns","Output":"=== RUN   TestRuns\n"}
{"Action":"pass","Package":"m/a","Test":"TestRuns","Elapsed":0.1}
{"Action":"run","Package":"m/a","Test":"TestGRE"}
{"Action":"output","Package":"m/a","Test":"TestGRE","Output":"=== RUN   TestGRE\n"}
{"Action":"output","Package":"m/a","Test":"TestGRE","Output":"    need.go:7: gre: not supported\n"}
{"Action":"output","Package":"m/a","Test":"TestGRE","Output":"    gre_test.go:9: lane: needs gre, runs in the vm lane\n"}
{"Action":"output","Package":"m/a","Test":"TestGRE","Output":"--- SKIP: TestGRE (0.00s)\n"}
{"Action":"skip","Package":"m/a","Test":"TestGRE","Elapsed":0}
{"Action":"pass","Package":"m/a","Elapsed":0.2}
{"Action":"run","Package":"m/b","Test":"TestHardware/card"}
{"Action":"output","Package":"m/b","Test":"TestHardware/card","Output":"    b_test.go:9: no card\n        in this machine\n"}
{"Action":"skip","Package":"m/b","Test":"TestHardware/card"}
{"Action":"pass","Package":"m/b"}
{"Action":"skip","Package":"m/notests"}
`

const vm = `
{"Action":"run","Package":"m/a","Test":"TestRuns"}
{"Action":"pass","Package":"m/a","Test":"TestRuns"}
{"Action":"run","Package":"m/a","Test":"TestGRE"}
{"Action":"run","Package":"m/a","Test":"TestGRE/v6"}
{"Action":"pass","Package":"m/a","Test":"TestGRE/v6"}
{"Action":"pass","Package":"m/a","Test":"TestGRE"}
{"Action":"pass","Package":"m/a"}
`

func allow(t *testing.T, text string) []*allowance {
	t.Helper()
	a, err := parseAllowances(strings.NewReader(text))
	require.NoError(t, err)
	return a
}

func printed(rep report) string {
	var b strings.Builder
	rep.print(&b)
	return b.String()
}

func TestATestThatOneLaneSkippedAndAnotherRanCountsOnceAsRun(t *testing.T) {
	t.Parallel()
	first := laneOf(t, "here", here)
	require.Equal(t, "^TestGRE$", wantVM(first, "m/a"))
	rep := merge([]*lane{first, laneOf(t, "vm", vm)}, allow(t, "b TestHardware/* needs a card"), nil)
	require.Empty(t, rep.failures)
	require.Equal(t, 3, rep.passed)
	require.Equal(t, []skip{{id{"m/b", "TestHardware/card"}, "no card in this machine", "needs a card"}}, rep.skips)
	require.True(t, strings.HasSuffix(printed(rep), "\n3 passed, 0 failed, 1 skipped\n"), printed(rep))
}

func TestASkipThatIsNotListedFails(t *testing.T) {
	t.Parallel()
	rep := merge([]*lane{laneOf(t, "here", here), laneOf(t, "vm", vm)}, nil, nil)
	require.Len(t, rep.failures, 1)
	require.Contains(t, rep.failures[0].what, "m/b TestHardware/card: no card in this machine")
	require.True(t, strings.HasSuffix(printed(rep), "\n3 passed, 1 failed, 0 skipped\n"), printed(rep))
}

func TestASkipForALaneThatDidNotRunFailsUnlessTheLaneIsMissing(t *testing.T) {
	t.Parallel()
	lanes := []*lane{laneOf(t, "here", here)}
	allowed := "b TestHardware/card needs a card"
	require.Len(t, merge(lanes, allow(t, allowed), nil).failures, 1)
	rep := merge(lanes, allow(t, allowed), []string{inVM})
	require.Empty(t, rep.failures)
	require.Len(t, rep.skips, 2)
	require.Contains(t, printed(rep), "SKIPPED m/a TestGRE: lane: needs gre, runs in the vm lane (that lane could not run here)")
}

func TestASkipInTheLastLaneTooFails(t *testing.T) {
	t.Parallel()
	again := laneOf(t, "vm", `
{"Action":"output","Package":"m/a","Test":"TestGRE","Output":"    gre_test.go:9: lane: needs gre, runs in the vm lane\n"}
{"Action":"skip","Package":"m/a","Test":"TestGRE"}
{"Action":"pass","Package":"m/a"}`)
	rep := merge([]*lane{laneOf(t, "here", here), again}, allow(t, "b TestHardware/* needs a card"), nil)
	require.Len(t, rep.failures, 1)
	require.Contains(t, rep.failures[0].what, "TestGRE")
}

func TestATestThatFailsInOneLaneHasFailed(t *testing.T) {
	t.Parallel()
	bad := laneOf(t, "vm", strings.Replace(vm, `"pass","Package":"m/a","Test":"TestRuns"`, `"fail","Package":"m/a","Test":"TestRuns"`, 1))
	rep := merge([]*lane{laneOf(t, "here", here), bad}, allow(t, "b TestHardware/* needs a card"), nil)
	require.Len(t, rep.failures, 1)
	require.Equal(t, "in vm: m/a TestRuns", rep.failures[0].what)
	require.Contains(t, printed(rep), "3 tests run")
}

func TestAPackageThatFailsWithoutAFailedTestIsAFailure(t *testing.T) {
	t.Parallel()
	for name, events := range map[string]string{
		"leak": `
{"Action":"pass","Package":"m/a","Test":"TestRuns"}
{"Action":"output","Package":"m/a","Output":"leaked: a\n"}
{"Action":"fail","Package":"m/a"}`,
		"build": `
{"ImportPath":"m/a [m/a.test]","Action":"build-output","Output":"leaked: undefined\n"}
{"ImportPath":"m/a [m/a.test]","Action":"build-fail"}
{"Action":"fail","Package":"m/a","FailedBuild":"m/a [m/a.test]"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var told strings.Builder
			l := newLane("here")
			require.NoError(t, l.read(strings.NewReader(events), &told, func(string) {}))
			require.Contains(t, told.String(), "leaked: ")
			failures := merge([]*lane{l}, nil, nil).failures
			require.Len(t, failures, 1)
			require.Equal(t, "in here: m/a", failures[0].what)
			require.Contains(t, failures[0].said, "  leaked: ")
		})
	}
}

func TestATestThatNeverEndedHasFailedAndIsShown(t *testing.T) {
	t.Parallel()
	var told strings.Builder
	l := newLane("here")
	require.NoError(t, l.read(strings.NewReader(`
{"Action":"run","Package":"m/a","Test":"TestHangs"}
{"Action":"output","Package":"m/a","Test":"TestHangs","Output":"hanging\n"}
{"Action":"output","Package":"m/a","Output":"killed\n"}
{"Action":"fail","Package":"m/a"}`), &told, func(string) {}))
	require.Contains(t, told.String(), "hanging\ndid not end\n")
	require.Contains(t, told.String(), "killed\n")
	rep := merge([]*lane{l}, nil, nil)
	require.Equal(t, []failure{{"in here: m/a TestHangs", "  hanging\n  did not end\n"}}, rep.failures)
	require.Contains(t, printed(rep), "FAILED in here: m/a TestHangs\n  hanging\n  did not end\n0 passed, 1 failed", "the log's end tells why")
}

func TestAnAllowanceThatNothingNeedsIsNoted(t *testing.T) {
	t.Parallel()
	rep := merge([]*lane{laneOf(t, "vm", vm)}, allow(t, "# comment\n\na TestOld some reason"), nil)
	require.Equal(t, []string{"allowed skip that did not happen: a TestOld"}, rep.notes)
}

func TestAnAllowanceWithoutAReasonIsRefused(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"a TestX", "a", "a Test[ why"} {
		_, err := parseAllowances(strings.NewReader("# one\n" + line))
		require.ErrorContains(t, err, "line 2", line)
	}
}

func TestWhatIsNotAnEventIsAnError(t *testing.T) {
	t.Parallel()
	require.ErrorContains(t, newLane("here").read(strings.NewReader("go: no such flag"), io.Discard, func(string) {}), "events of here")
}

func TestTheVirtualMachineIsAskedForNoMoreThanWaitsForIt(t *testing.T) {
	t.Parallel()
	l := newLane("here")
	for _, name := range []string{"TestA/x", "TestA/y+z/over_IPv6", "TestA/y+z/over_IPv4", "TestB"} {
		r := &result{outcome: skipped}
		r.output.WriteString("    a_test.go:7: lane: needs gre, " + inVM + "\n")
		l.results[id{"m/a", name}] = r
	}
	require.Equal(t, `^TestA$/^x$|^TestA$/^y\+z$|^TestB$`, wantVM(l, "m/a"))
	require.Empty(t, wantVM(l, "m/b"))
}

func TestAPackageIsGivenToTheVirtualMachineAsSoonAsItHasEnded(t *testing.T) {
	t.Parallel()
	var ended []string
	l := newLane("here")
	g := (&suite{noVM: true}).newGuests(t.Context())
	require.NoError(t, l.read(strings.NewReader(here), io.Discard, func(pkg string) {
		ended = append(ended, pkg)
		if pkg == "m/b" { // nothing there waits for it
			g.take(l, pkg)
		}
	}))
	require.Equal(t, []string{"m/a", "m/b"}, ended)
	_, err := g.wait()
	require.NoError(t, err)
	g.take(l, "m/a")
	_, err = g.wait()
	require.ErrorContains(t, err, "-no-vm")
}

func TestTheTenSlowestTestsOfAllLanesAreToldWithoutSubtests(t *testing.T) {
	t.Parallel()
	var events strings.Builder
	for i := range 12 {
		fmt.Fprintf(&events, `{"Action":"pass","Package":"m/a","Test":"Test%d","Elapsed":%d}`, i, i)
		fmt.Fprintf(&events, `{"Action":"pass","Package":"m/a","Test":"Test%d/sub","Elapsed":99}`, i)
	}
	rep := merge([]*lane{laneOf(t, "here", events.String()), laneOf(t, "vm", `{"Action":"pass","Package":"m/b","Test":"TestB","Elapsed":10.5}`)}, nil, nil)
	require.Len(t, rep.slow, 10)
	require.Contains(t, printed(rep), "\nSLOW    11.0 s in here: m/a Test11\nSLOW    10.5 s in vm: m/b TestB\nSLOW    10.0 s in here: m/a Test10\n")
}

func TestTheRaceDetectorIsForPackagesWithGoroutinesAndTestsOfThem(t *testing.T) {
	t.Chdir("../..")
	const module = "github.com/cniblocks/cniblocks/"
	with, without, err := (&suite{race: true}).raced(t.Context(), []string{module + "agent", module + "test/agent", module + "netns", module + "inet", module + "veth", module + "plugins/hostlocal"})
	require.NoError(t, err)
	require.ElementsMatch(t, []string{module + "agent", module + "test/agent", module + "netns"}, with)
	require.ElementsMatch(t, []string{module + "inet", module + "veth", module + "plugins/hostlocal"}, without)
	with, without, err = (&suite{}).raced(t.Context(), []string{module + "agent"})
	require.NoError(t, err)
	require.Empty(t, with)
	require.Equal(t, []string{module + "agent"}, without)
}

func TestPackagesWhoseTestsNeedKubernetesAreParted(t *testing.T) {
	t.Parallel()
	others, kube := parted("m/a m/internal/test/kubetest2 testing\nm/b testing m/internal/test/kubetest\nm/internal/test/kubetest\nm/c\nm/test/soak\n\n")
	require.Equal(t, []string{"m/test/soak", "m/a", "m/internal/test/kubetest", "m/c"}, others, "the slow one first")
	require.Equal(t, []string{"m/b"}, kube)
}

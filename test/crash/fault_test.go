//go:build linux

package crash_test

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/tracer"
)

// errnos are what calls fail with.
var errnos = []syscall.Errno{syscall.ENOSPC, syscall.EPERM, syscall.ENOMEM, syscall.EINTR, syscall.EBUSY, syscall.ENETDOWN}

// restarts are the calls that POSIX lets a signal interrupt, and that are to be made again then.
var restarts = map[string]bool{"openat": true, "write": true, "pwrite64": true, "ftruncate": true, "flock": true, "sendto": true,
	"sendmsg": true, "recvfrom": true, "recvmsg": true}

// fault is a call that is to fail.
type fault struct {
	name    string
	trace   trace
	changes bool
}

// faults are calls that change something, whose errors mean that nothing happened, and calls that receive, whose errors
// mean that something happened and the answer is lost.
var faults = []fault{{"changes fail", tracer.Trace, true}, {"answers are lost", tracer.TraceAnswers, false}}

// failed proves that a program which failed said why, in the form of the specification. A program that could not write
// that need not have said it.
func (n *node) failed(s struck, reason, why string) {
	n.t.Helper()
	require.NotEmpty(n.t, s.err, why)
	if s.at == "write out" {
		return
	}
	var e struct {
		Code    cni.Code
		Msg     string
		Version string `json:"cniVersion"`
	}
	require.NoError(n.t, json.Unmarshal([]byte(s.out), &e), "%s: %q", why, s.out)
	require.Equal(n.t, "1.1.0", e.Version, why)
	require.Contains(n.t, []cni.Code{cni.ErrIO, cni.ErrTryAgain}, e.Code, "%s: %s", why, e.Msg)
	require.Contains(n.t, e.Msg, reason, why)
	require.NotContains(n.t, strings.ToLower(e.Msg), "panic", why)
}

// failAll lets every change of a victim fail, one at a time: with -all with every error, and where that takes too long with
// so many of them, in turn; why an answer is lost makes less of a difference. before prepares, after judges.
func failAll(t *testing.T, n *node, name string, victim call, some, inTurn int, before func(), after func(s struck, reason, why string)) {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("calls are made to fail on amd64 only")
	}
	for _, f := range faults {
		before()
		none := n.strike(victim, f.trace, 0, tracer.Verdict{})
		after(none, "", name+" undisturbed")
		if none.Changes == 0 && !f.changes { // it asks nobody
			continue
		}
		codes := map[int]int{}
		turns := inTurn
		if f.changes && !emulated {
			turns = len(errnos)
		}
		tried := points(none.Changes, some, turns, func(k, w int) bool {
			errno := errnos[(turns*k+w)%len(errnos)]
			before()
			s := n.strike(victim, f.trace, k, tracer.Fail(errno))
			why := fmt.Sprintf("%s, change %d (%s) failed with %q", name, k, s.at, errno)
			reason := errno.Error()
			if s.Status != 0 {
				require.False(t, reason == syscall.EINTR.Error() && restarts[strings.Fields(s.at)[0]], "%s: want it called again: %s", why, s.err)
				if victim.verb != upVerb {
					n.failed(s, reason, why)
				}
			}
			after(s, reason, why)
			codes[s.Status]++
			return s.at != ""
		})
		require.Positive(t, tried)
		report(t, row{n.name, name + ", " + f.name, none.Changes, tried})
		t.Logf("%d of them it survived itself", codes[0])
	}
}

func TestAnADDWhoseCallsFailSaysWhyAndUndoesItself(t *testing.T) {
	t.Parallel()
	each(t, common, func(t *testing.T, c config) {
		n, clean := warm(t, c)
		failAll(t, n, "ADD", n.add("a"), 9, 3, func() {}, func(s struck, _, why string) {
			if s.Status == 0 {
				n.distinct(why)
				n.run(n.check("a"))
				n.run(n.del("a"))
			}
			n.lives(clean, why)
		})
	})
}

func TestAPairWhoseMakerLostTheKernelsAnswerIsRemovedAndNoOther(t *testing.T) {
	t.Parallel()
	i := slices.IndexFunc(configs, func(c config) bool { return c.name == "bridge, layer 2" })
	nstest.NeedRoot(t)
	n, clean := warm(t, configs[i])
	for _, id := range []string{"a", "live"} { // the second is a duplicate of one that lives
		tried := 0
		for k := 1; k <= most; k++ {
			s := n.strike(n.add(id), tracer.TraceAnswers, k, tracer.Fail(syscall.ENOBUFS))
			why := fmt.Sprintf("ADD of %s, answer %d lost", id, k)
			if id == "a" && s.Status == 0 {
				n.run(n.del("a"))
			} else {
				require.NotZero(t, s.Status, why)
			}
			n.lives(clean, why)
			if s.at == "" {
				break
			}
			tried++
		}
		require.Greater(t, tried, 1)
	}
}

func TestAnADDWhoseRuntimeIsGoneUndoesItself(t *testing.T) {
	t.Parallel()
	each(t, common, func(t *testing.T, c config) {
		n, clean := warm(t, c)
		cmd := n.command(n.add("a"))
		for _, f := range []*io.Writer{&cmd.Stdout, &cmd.Stderr} {
			(*f).(*os.File).Close()
			r, w, err := os.Pipe()
			require.NoError(t, err)
			require.NoError(t, r.Close())
			defer w.Close()
			*f = w
		}
		var exit *exec.ExitError
		require.ErrorAs(t, n.ns.Do(cmd.Run), &exit)
		require.Equal(t, 1, exit.ExitCode(), exit.String())
		n.lives(clean, "ADD with nobody to read its result")
	})
}

func TestADELWhoseCallsFailSaysSoAndTheNextFinishes(t *testing.T) {
	t.Parallel()
	each(t, common, func(t *testing.T, c config) {
		n, clean := warm(t, c)
		failAll(t, n, "DEL", n.del("a"), 6, 2, func() { n.run(n.add("a")) }, func(s struck, _, why string) {
			if s.Status != 0 {
				n.run(n.del("a"))
			}
			n.lives(clean, why)
		})
	})
}

func TestAGCWhoseCallsFailSaysSoAndTheNextFinishes(t *testing.T) {
	t.Parallel()
	each(t, common, func(t *testing.T, c config) {
		n, clean := warm(t, c)
		before := func() { n.run(n.add("a")); n.run(n.add("c")) }
		failAll(t, n, "GC", n.gc("live"), 6, 1, before, func(s struck, _, why string) {
			if s.Status != 0 {
				n.run(n.gc("live"))
			}
			n.lives(clean, why)
		})
	})
}

func TestAFirstADDWhoseCallsFailIsMendedByTheNextAndCleanedUp(t *testing.T) {
	t.Parallel()
	each(t, common, func(t *testing.T, c config) {
		n := newNode(t, c)
		before := n.settled()
		failAll(t, n, "first ADD", n.add("a"), 6, 1, func() {}, func(s struck, _, why string) {
			if s.Status == 0 {
				n.run(n.check("a"))
				n.run(n.del("a"))
			}
			require.Empty(t, n.leases(), why)
			n.attaches("b", why)
			n.run(n.del("b"))
			n.cleanup()
			n.is(before, "%s, cleaned up", why)
		})
	})
}

func TestANewListOfPeersWhoseCallsFailIsMendedByTheNext(t *testing.T) {
	t.Parallel()
	each(t, commonOverlays, func(t *testing.T, c config) {
		n := newNode(t, c)
		n.run(n.add("live"))
		n.run(n.up(n.conf))
		one := n.steady(func() { n.run(n.up(n.two)); n.run(n.up(n.conf)) })
		n.run(n.up(n.two))
		two := n.settled()
		n.run(n.up(n.conf))
		failAll(t, n, "overlay up, other peers", n.up(n.two), 6, 1, func() {}, func(s struck, reason, why string) {
			if s.Status != 0 {
				require.Contains(t, s.err, reason, why)
				n.run(n.up(n.two))
			}
			n.is(two, "%s", why)
			n.run(n.up(n.conf))
			n.is(one, "%s, then the old list", why)
		})
	})
}

// The library that configures WireGuard is the only one in the plugins that sends by sendmsg(2). It makes the call again if an
// event of its socket is still to come, else it waits for ever, which must not be the program's fate.
func TestAnInterruptedCallToWireGuardIsMadeAgain(t *testing.T) {
	t.Parallel()
	i := slices.IndexFunc(configs, func(c config) bool { return c.name == "overlay, wireguard" })
	nstest.Need(t, configs[i].needs...)
	n := newNode(t, configs[i])
	n.run(n.add("live"))
	cmd, interrupted, again := n.command(n.up(n.two)), 0, false
	var o tracer.Outcome
	require.NoError(t, n.ns.Do(func() (err error) {
		o, err = tracer.Trace(cmd, func(c tracer.Call) tracer.Verdict {
			if c.Name() != "sendto" {
				return tracer.Verdict{}
			}
			if again = !again; !again {
				return tracer.Verdict{}
			}
			interrupted++
			return tracer.Fail(syscall.EINTR)
		})
		return err
	}))
	_, errs := n.answer(cmd)
	require.Zero(t, o.Status, string(errs))
	require.Greater(t, interrupted, 3)
	n.run(n.up(n.conf))
	n.run(n.check("live"))
}

// leases are the addresses that have a lease file.
func (n *node) leases() (held []string) {
	for line := range strings.Lines(n.files()) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "file" && strings.HasPrefix(f[1], "/leases/net/") {
			held = append(held, f[1])
		}
	}
	return slices.Compact(held)
}

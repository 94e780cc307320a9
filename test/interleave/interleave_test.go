//go:build linux

package interleave

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/binaries"
	"github.com/cniblocks/cniblocks/internal/test/machine"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/reference"
	"github.com/cniblocks/cniblocks/internal/test/tracer"
)

var (
	all    = flag.Bool("all", false, "stop before every change, not at a sample of them")
	sample = flag.Int("sample", 2, "before how many changes of each pair to stop")
	hurry  = flag.Bool("hurry", false, "do not wait for the end of the second call: go on after 0 to 6 ms of it")
	seed   = flag.Uint64("seed", 0, "of the sample; 0 is another one each time")
)

func TestMain(m *testing.M) { nstest.Main(m, binaries.Remove) }

// trace runs a call to its end and asks before ahead of each of its changes.
func (w *world) trace(c machine.Call, before func(tracer.Call) tracer.Verdict) (changes int, o outcome) {
	cmd, close, err := w.Command(context.Background(), c)
	if err != nil {
		return 0, outcome{err: err}
	}
	defer close()
	fd, err := unix.MemfdCreate("out", unix.MFD_CLOEXEC)
	if err != nil {
		return 0, outcome{err: err}
	}
	out := os.NewFile(uintptr(fd), "out")
	defer out.Close()
	cmd.Stdout = out
	var end tracer.Outcome
	err = w.NS.Do(func() (err error) {
		end, err = tracer.Trace(cmd, before)
		return err
	})
	text, readErr := io.ReadAll(io.NewSectionReader(out, 0, 1<<20))
	err = errors.Join(err, readErr)
	if err == nil && end.Status != 0 {
		err = fmt.Errorf("%s %s: exit status %d: %s", c.Verb, c.ID, end.Status, text)
	}
	return end.Changes, outcome{text, err}
}

// stops chooses the changes to stop before, of so many.
func stops(rng *rand.Rand, changes int) (at []int) {
	for k := 1; k <= changes; k++ {
		at = append(at, k)
	}
	if *all {
		return at
	}
	rng.Shuffle(len(at), func(i, j int) { at[i], at[j] = at[j], at[i] })
	at = at[:min(len(at), *sample)]
	slices.Sort(at)
	return at
}

var seeded = sync.OnceValue(func() uint64 {
	if *seed == 0 {
		return rand.Uint64()
	}
	return *seed
})

func random(t *testing.T) *rand.Rand {
	t.Logf("repeat with -seed=%d", seeded())
	return rand.New(rand.NewPCG(seeded(), 1))
}

func TestTwoCallsAtOnceDoNoHarmWhereverOneStops(t *testing.T) {
	t.Parallel()
	static, err := reference.Build("static")
	require.NoError(t, err)
	for _, c := range configs {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			rng := random(t)
			nstest.Need(t, c.needs...)
			w := newWorld(t, c, static)
			w.settle()
			runs, changes := 0, map[cni.Verb]int{}
			for _, pair := range pairs() {
				for i, ks := 0, []int{0}; i < len(ks); i++ {
					valid := w.prepare(pair)
					a, b, n := w.together(ks[i], w.call(pair[0], valid...), w.call(pair[1], valid...))
					w.judge(describe(pair, ks[i]), pair, [2]outcome{a, b})
					runs++
					if ks[i] == 0 {
						ks = append(ks, stops(rng, n)...)
						changes[pair[0].verb] = max(changes[pair[0].verb], n)
					}
				}
			}
			t.Logf("%d pairs, %d runs; changes of the first call %v", len(pairs()), runs, changes)
		})
	}
}

func TestTwoFirstADDsAtOnceMakeOneWholeNetworkWhereverOneStops(t *testing.T) {
	t.Parallel()
	static, err := reference.Build("static")
	require.NoError(t, err)
	for _, c := range configs {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			rng := random(t)
			nstest.Need(t, c.needs...)
			want, changes := "", 0
			for i, ks := 0, []int{0}; i < len(ks); i++ {
				w := newWorld(t, c, static)
				a, b, n := w.together(ks[i], w.call(act{cni.ADD, "a"}), w.call(act{cni.ADD, "b"}))
				at := fmt.Sprintf("ADD before its change %d", ks[i])
				require.NoError(t, a.err, at)
				require.NoError(t, b.err, at)
				w.results["a"], w.results["b"] = a.out, b.out
				w.must(act{cni.CHECK, "a"})
				w.must(act{cni.CHECK, "b"})
				w.must(act{cni.DEL, "a"})
				w.must(act{cni.CHECK, "b"})
				w.must(act{cni.DEL, "b"})
				have := nameless(w.dumps.Dump())
				if have != want {
					nstest.Settle(t, w.NS)
					have = nameless(w.dumps.Dump())
				}
				if ks[i] == 0 {
					want, changes = have, n
					ks = append(ks, stops(rng, n)...)
				}
				require.Equal(t, want, have, at)
			}
			t.Logf("the first ADD makes %d changes", changes)
		})
	}
}

// nameless are the lines of a dump without what depends on chance: addresses that derive from a random MAC, MACs, indexes.
func nameless(dump string) string {
	var lines []string
	for line := range strings.Lines(dump) {
		kind, rest, _ := strings.Cut(line, " ")
		switch {
		case strings.Contains(line, "fe80:") || strings.Contains(line, "lladdr") || kind == "fdb":
		case kind == "link":
			_, rest, _ = strings.Cut(rest, " ")
			before, after, _ := strings.Cut(rest, " mac ")
			_, after, _ = strings.Cut(after, " ")
			lines = append(lines, kind+" "+before+" "+after)
		default:
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

func TestAnAddressThatGoesFromOnePodToTheNextKeepsItsMasqueradingWhereverTheDELStops(t *testing.T) {
	t.Parallel()
	static, err := reference.Build("static")
	require.NoError(t, err)
	rng := random(t)
	w := newWorld(t, configs[2], static)
	require.True(t, w.config.static)
	w.settle()
	del := act{cni.DEL, "a"}
	w.must(act{cni.ADD, "a"})
	n, o := w.trace(w.call(del), func(tracer.Call) tracer.Verdict { return tracer.Verdict{} })
	require.NoError(t, o.err)
	for _, k := range stops(rng, n) {
		w.must(act{cni.ADD, "a"})
		next := w.call(act{cni.ADD, "b"})
		next.Conf = w.conf("a")
		a, b, _ := w.together(k, w.call(del), next)
		require.NoError(t, a.err)
		require.NoError(t, b.err)
		_, err := w.Do(t.Context(), machine.Call{Verb: cni.CHECK, ID: "b", NetNS: w.pods["b"].Path, Conf: machine.Check(w.conf("a"), b.out)})
		require.NoError(t, err, "DEL of a before its change %d, meanwhile ADD of b with the address of a", k)
		w.must(act{cni.DEL, "b"})
		w.requireClean(fmt.Sprint(k))
	}
	t.Logf("DEL makes %d changes", n)
}

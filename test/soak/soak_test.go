//go:build linux

package soak

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/binaries"
	"github.com/cniblocks/cniblocks/internal/test/machine"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/reference"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/masq"
)

var (
	operations = flag.Int("operations", 1600, "how many operations; the long form has 50000")
	lasting    = flag.Duration("for", usual(), "how long, however many operations that takes; 0 is as long as -operations takes")
	seed       = flag.Uint64("seed", 0, "of the random numbers; 0 is another one each time")
	workers    = flag.Int("workers", 8, "how many work at once")
)

const (
	perRound  = 50 // operations of a worker between two looks at everything
	perWorker = 2  // slots of a worker in each network
)

// usual is how long a run takes that nobody asked for: CI has a minute for it.
func usual() time.Duration {
	if os.Getenv("CI") != "" {
		return time.Minute
	}
	return 0
}

func TestMain(m *testing.M) { nstest.Main(m, binaries.Remove) }

// run is a whole soak.
type run struct {
	t          *testing.T
	m          *machine.Machine
	networks   []*network
	slots      []*slot // of all workers
	generation int     // of the configurations: they change between rounds
}

func TestWhateverIsCalledInWhateverOrderExactlyWhatIsAttachedExists(t *testing.T) {
	nstest.Need(t, nstest.VXLAN, nstest.NFT, nstest.NFTBridge, nstest.IPTables)
	static, err := reference.Build("static")
	require.NoError(t, err)
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("repeat with -seed=%d -operations=%d -for=%s -workers=%d", *seed, *operations, *lasting, *workers)
	r := &run{t: t, m: machine.New(t)}
	r.m.Path += ":" + static
	r.m.SubnetEnv(t)
	r.networks = networks(r.m.Dir)
	crew := r.crew()
	t.Cleanup(r.close)
	r.settle()
	clean, files, heap := r.dump(), r.m.Files(t), memory()
	begin := time.Now()
	more := func(done int) bool {
		if *lasting > 0 {
			return time.Since(begin) < *lasting
		}
		return done < *operations
	}
	for done, round := 0, 0; more(done); round++ {
		r.generation = round % 3
		r.settle()
		var g errgroup.Group
		for _, w := range crew {
			g.Go(func() error {
				for range perRound {
					if err := w.step(t.Context()); err != nil {
						return err
					}
				}
				return nil
			})
		}
		require.NoError(t, g.Wait(), "round %d of the run with -seed=%d", round, *seed)
		done += perRound * len(crew)
		r.compare()
		if round%10 == 0 {
			t.Logf("%d operations in %s, %d attached, heap %d kB, %d descriptors, %d goroutines", done,
				time.Since(begin).Round(time.Second), len(r.attached(nil)), memory()/1000, descriptors(t), runtime.NumGoroutine())
		}
	}
	r.report(crew, time.Since(begin))
	r.end()
	require.Equal(t, clean, r.dump())
	require.Equal(t, files, r.m.Files(t))
	after := memory()
	require.Less(t, after, heap+8<<20, "the heap of this process grew from %d to %d bytes", heap, after)
	t.Logf("the dump is as in the beginning; heap %d kB, then %d kB", heap/1000, after/1000)
}

func (r *run) crew() (crew []*worker) {
	for i := range *workers {
		w := &worker{run: r, rng: rand.New(rand.NewPCG(*seed, uint64(i))), count: map[string]int{}}
		for _, n := range r.networks {
			for range perWorker {
				s := &slot{network: n, n: len(r.slots)}
				r.slots, w.slots = append(r.slots, s), append(w.slots, s)
			}
		}
		crew = append(crew, w)
	}
	return crew
}

// settle makes of every network what the configuration of this generation has, by an attachment that comes and goes.
func (r *run) settle() {
	pod, err := r.m.Pod("settle")
	require.NoError(r.t, err)
	for _, n := range r.networks {
		conf := n.conf(n, r.generation, 0, 999)
		for _, verb := range []cni.Verb{cni.ADD, cni.DEL} {
			_, err := r.m.Do(r.t.Context(), machine.Call{Verb: verb, ID: "settle", NetNS: pod.Path, Conf: conf})
			require.NoError(r.t, err)
		}
		require.NoError(r.t, r.collectNetwork(r.t.Context(), n))
	}
	require.NoError(r.t, pod.Close())
}

// attached are the slots of a network, or of all, that have an attachment.
func (r *run) attached(n *network) (all []*slot) {
	for _, s := range r.slots {
		if (n == nil || s.network == n) && s.state == attached { // the states of other networks may change meanwhile
			all = append(all, s)
		}
	}
	return all
}

// collectNetwork calls GC; nobody else may be at work in the network.
func (r *run) collectNetwork(ctx context.Context, n *network) error {
	var valid []string
	for _, s := range r.attached(n) {
		valid = append(valid, s.id)
	}
	_, err := r.m.Do(ctx, machine.Call{Verb: cni.GC, Conf: n.collected(r.generation, valid)})
	return err
}

// compare collects the garbage of all networks; then there is exactly what the model has.
func (r *run) compare() {
	t := r.t
	for _, n := range r.networks {
		require.NoError(t, r.collectNetwork(t.Context(), n))
	}
	want := seen{}
	for _, s := range r.slots {
		if s.state != attached {
			s.state, s.result = absent, nil
			continue
		}
		want.add(t, s)
		_, err := r.m.Do(t.Context(), machine.Call{Verb: cni.CHECK, ID: s.id, NetNS: s.pod.Path,
			Conf: machine.Check(s.conf(s.network, r.generation, s.variant, s.n), s.result)})
		require.NoError(t, err)
	}
	want.sort()
	require.Equal(t, want, r.look(), "-seed=%d", *seed)
}

// seen is what there is of attachments, sorted.
type seen struct {
	interfaces []string // their aliases
	leases     []string // network, container, address
	guarded    []string // names of interfaces
	masked     []string // addresses that are masqueraded by themselves
}

func (w *seen) sort() {
	for _, list := range [][]string{w.interfaces, w.leases, w.guarded, w.masked} {
		slices.Sort(list)
	}
}

func (w *seen) add(t *testing.T, s *slot) {
	res, err := cni.ParseResult(s.result)
	require.NoError(t, err)
	w.interfaces = append(w.interfaces, link.Alias(s.name, s.id, "eth0"))
	for _, ip := range res.IPs {
		if s.name == "single" {
			w.masked = append(w.masked, ip.Address.Addr().String())
		} else {
			w.leases = append(w.leases, fmt.Sprint(s.name, " ", s.id, " ", ip.Address.Addr()))
		}
	}
	if s.name == "guarded" {
		w.guarded = append(w.guarded, link.HostName(s.name, s.id, "eth0"))
	}
}

var (
	alias = regexp.MustCompile(`(?m)^link .* alias "(cniblocks/[^/"]+/[^"]+)"`)
	guard = regexp.MustCompile(`"(veth[a-z0-9]{11})" comment`)
)

func (r *run) look() (have seen) {
	dump := nstest.Dump(r.m.NS)
	for _, m := range alias.FindAllStringSubmatch(dump, -1) {
		have.interfaces = append(have.interfaces, m[1])
	}
	for _, m := range guard.FindAllStringSubmatch(dump, -1) {
		have.guarded = append(have.guarded, m[1])
	}
	for _, n := range r.networks {
		held, err := r.m.Held(n.name)
		require.NoError(r.t, err)
		for id, addrs := range held {
			for _, a := range addrs {
				have.leases = append(have.leases, fmt.Sprint(n.name, " ", id, " ", a))
			}
		}
	}
	list, err := masq.NFT{NS: r.m.NS}.List(r.t.Context())
	require.NoError(r.t, err)
	for _, p := range list {
		for _, pod := range p.Pods {
			have.masked = append(have.masked, pod.Addr.String())
		}
	}
	have.sort()
	return have
}

// end deletes all that is attached.
func (r *run) end() {
	r.generation = 0
	for _, s := range r.slots {
		if s.state == attached {
			_, err := r.m.Do(r.t.Context(), machine.Call{Verb: cni.DEL, ID: s.id, NetNS: s.pod.Path, Conf: s.conf(s.network, 0, s.variant, s.n)})
			require.NoError(r.t, err)
		}
		s.state, s.result = absent, nil
	}
	r.close()
	r.settle()
}

// close ends all namespaces of pods.
func (r *run) close() {
	for _, s := range r.slots {
		if s.pod.NS != nil {
			require.NoError(r.t, s.pod.Close())
			s.pod.NS = nil
		}
	}
}

func (r *run) dump() string {
	nstest.Settle(r.t, r.m.NS)
	return nstest.Dump(r.m.NS)
}

func (r *run) report(crew []*worker, took time.Duration) {
	total, sum := 0, map[string]int{}
	for _, w := range crew {
		for name, n := range w.count {
			sum[name] += n
			total += n
		}
	}
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(sum)) {
		lines = append(lines, fmt.Sprintf("%6d %s", sum[name], name))
	}
	r.t.Logf("%d operations of %d workers in %s, %.1f a second:\n%s", total, len(crew), took.Round(time.Second),
		float64(total)/took.Seconds(), strings.Join(lines, "\n"))
}

func memory() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func descriptors(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}

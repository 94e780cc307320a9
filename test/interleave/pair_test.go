//go:build linux

package interleave

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/machine"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/tracer"
)

// config is a network; ADDRESS stands for one that belongs to the container alone.
type config struct {
	name, conf string
	needs      []nstest.Feature
	static     bool // addresses come from the configuration
}

var configs = []config{
	{name: "dual stack with SNAT", conf: `{"cniVersion":"1.1.0","name":"net","type":"bridge","bridge":"br0","isDefaultGateway":true,"ipMasq":true,
		"ipam":{"type":"host-local","dataDir":"DIR","ranges":[[{"subnet":"10.1.2.0/24"}],[{"subnet":"fd00:1:2::/64"}]]}}`},
	{name: "macspoofchk", needs: []nstest.Feature{nstest.NFTBridge}, conf: `{"cniVersion":"1.1.0","name":"net","type":"bridge","bridge":"br0",
		"isGateway":true,"macspoofchk":true,"ipam":{"type":"host-local","dataDir":"DIR","subnet":"10.1.2.0/24"}}`},
	{name: "SNAT for each pod", static: true, conf: `{"cniVersion":"1.1.0","name":"net","type":"bridge","bridge":"br0","isGateway":true,"ipMasq":true,
		"ipam":{"type":"static","addresses":[{"address":"ADDRESS/24","gateway":"10.1.2.1"}]}}`},
	{name: "overlay", needs: []nstest.Feature{nstest.VXLAN}, conf: `{"cniVersion":"1.1.0","name":"net","type":"overlay","encap":"vxlan","ipMasq":true,
		"stateDir":"DIR/run","network":["10.244.0.0/16","fd00:10:244::/48"],
		"peers":[{"name":"a","endpoint":["192.0.2.11","2001:db8::11"],"pods":["10.244.1.0/24","fd00:10:244:1::/64"]},
		{"name":"b","endpoint":["192.0.2.12","2001:db8::12"],"pods":["10.244.2.0/24","fd00:10:244:2::/64"]}],
		"delegate":{"type":"bridge","isDefaultGateway":true,"ipam":{"type":"host-local","dataDir":"DIR"}}}`},
	{name: "flannel", conf: `{"cniVersion":"1.1.0","name":"net","type":"flannel","subnetFile":"DIR/subnet.env","dataDir":"DIR/flannel",
		"ipam":{"dataDir":"DIR"},"delegate":{"isDefaultGateway":true}}`},
}

// act is a call of one of the containers.
type act struct {
	verb cni.Verb
	id   string
}

func (a act) String() string { return strings.TrimSpace(string(a.verb) + " " + a.id) }

// pairs are every two verbs, the first of container a. A CHECK has nothing to check while its own container is added.
func pairs() (all [][2]act) {
	verbs := []cni.Verb{cni.ADD, cni.DEL, cni.CHECK, cni.GC}
	for _, first := range verbs {
		for _, second := range verbs {
			for _, id := range []string{"a", "b"} {
				p := [2]act{{first, "a"}, {second, id}}
				if second == cni.GC && id == "b" || first == cni.GC && second == cni.GC && id == "a" {
					continue
				}
				if first == cni.ADD && second == cni.CHECK && id == "a" {
					continue
				}
				all = append(all, p)
			}
		}
	}
	return append(all, [2]act{{cni.GC, ""}, {cni.GC, ""}})
}

// world is a machine with a container that nobody touches, "live", and one that a GC takes away, "stale".
type world struct {
	*machine.Machine
	t       *testing.T
	config  config
	pods    map[string]machine.Pod
	results map[string][]byte
	dumps   nstest.Dumper
	clean   string
}

func newWorld(t *testing.T, c config, path string) *world {
	w := &world{Machine: machine.New(t), t: t, config: c, pods: map[string]machine.Pod{}, results: map[string][]byte{}}
	w.Path += ":" + path
	w.SubnetEnv(t)
	w.dumps.NS = w.NS
	for _, id := range []string{"live", "stale", "a", "b"} {
		p, err := w.Pod(id)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, p.Close()) })
		w.pods[id] = p
	}
	return w
}

// address is the one that belongs to a container.
var address = map[string]string{"live": "10.1.2.2", "stale": "10.1.2.3", "a": "10.1.2.4", "b": "10.1.2.5"}

func (w *world) conf(id string) string {
	return strings.NewReplacer("DIR", w.Dir, "ADDRESS", address[id]).Replace(w.config.conf)
}

func (w *world) call(a act, valid ...string) machine.Call {
	c := machine.Call{Verb: a.verb, ID: a.id, NetNS: w.pods[a.id].Path, Conf: w.conf(a.id)}
	switch a.verb {
	case cni.GC:
		c = machine.Call{Verb: cni.GC, Conf: machine.GC(w.conf("live"), valid...)}
	case cni.CHECK:
		c.Conf = machine.Check(c.Conf, w.results[a.id])
	}
	return c
}

func (w *world) must(a act, valid ...string) {
	w.t.Helper()
	out, err := w.Do(w.t.Context(), w.call(a, valid...))
	require.NoError(w.t, err)
	if a.verb == cni.ADD {
		w.results[a.id] = out
	}
}

// settle attaches live, and remembers what the machine is like then.
func (w *world) settle() {
	w.must(act{cni.ADD, "live"})
	w.must(act{cni.ADD, "a"})
	w.must(act{cni.DEL, "a"})
	nstest.Settle(w.t, w.NS)
	w.clean = w.dumps.Dump()
}

// outcome is how a call of a pair ended.
type outcome struct {
	out []byte
	err error
}

// together runs both calls: the second while the first stands before its k-th change, until it ends or has waited so long
// that it waits for the first, or with -hurry for a moment at most; with k = 0 one after the other. It reports how many changes
// the first came to.
func (w *world) together(k int, first, second machine.Call) (a, b outcome, changes int) {
	patience := 150 * time.Millisecond
	if *hurry {
		patience = rand.N(6 * time.Millisecond)
	}
	done := make(chan outcome, 1)
	started := false
	start := func() {
		started = true
		go func() {
			out, err := w.Do(w.t.Context(), second)
			done <- outcome{out, err}
		}()
	}
	changes, a = w.trace(first, func(c tracer.Call) tracer.Verdict {
		if c.N == k {
			start()
			select {
			case o := <-done:
				done <- o
			case <-time.After(patience):
			}
		}
		return tracer.Verdict{}
	})
	if !started {
		start()
	}
	return a, <-done, changes
}

// prepare attaches what a pair needs, and returns the containers that are valid for a GC, which takes stale.
func (w *world) prepare(pair [2]act) (valid []string) {
	valid = []string{"live"}
	for _, a := range pair {
		if a.verb == cni.GC && w.results["stale"] == nil {
			w.must(act{cni.ADD, "stale"})
		}
		if a.id == "" || a.verb == cni.GC {
			continue
		}
		if !slices.Contains(valid, a.id) {
			valid = append(valid, a.id)
		}
		if first := pair[0]; a.verb != cni.ADD && (first.id != a.id || first.verb != cni.ADD) && w.results[a.id] == nil {
			w.must(act{cni.ADD, a.id})
		}
	}
	return valid
}

// judge looks at what must hold after a pair. What calls of the same container that a runtime never makes at once end
// with is not said, save that no harm is done to others and that a DEL takes all of it away.
func (w *world) judge(at string, pair [2]act, outcomes [2]outcome) {
	t := w.t
	same := pair[0].id == pair[1].id && pair[0].verb != cni.GC && pair[1].verb != cni.GC
	torn := same && (pair[0].verb == cni.DEL || pair[1].verb == cni.DEL)
	added, duplicate := 0, same && pair[0].verb == cni.CHECK && pair[1].verb == cni.ADD
	for i, a := range pair {
		o := outcomes[i]
		switch {
		case a.verb == cni.DEL || a.verb == cni.GC || !same:
			require.NoError(t, o.err, at)
		case a.verb == cni.CHECK && pair[1-i].verb != cni.DEL:
			require.NoError(t, o.err, at)
		}
		if a.verb == cni.ADD && o.err == nil {
			added++
			w.results[a.id] = o.out
		}
		if a.verb == cni.GC {
			delete(w.results, "stale")
		}
	}
	if duplicate {
		require.Zero(t, added, at)
	}
	if same && pair[0].verb == cni.ADD && pair[1].verb == cni.ADD {
		require.Equal(t, 1, added, "%s: %v, %v", at, outcomes[0].err, outcomes[1].err)
	}
	for _, a := range pair {
		if a.verb == cni.DEL && !torn {
			delete(w.results, a.id)
		}
	}
	for id := range w.results {
		if torn && id == pair[0].id {
			continue
		}
		_, err := w.Do(t.Context(), w.call(act{cni.CHECK, id}))
		require.NoError(t, err, at)
	}
	w.noGhosts(at, torn, pair)
	for _, id := range []string{"a", "b"} {
		w.must(act{cni.DEL, id})
		delete(w.results, id)
	}
	w.requireClean(at)
}

// noGhosts makes sure that leases are those of attachments.
func (w *world) noGhosts(at string, torn bool, pair [2]act) {
	if w.config.static {
		return
	}
	held, err := w.Held("net")
	require.NoError(w.t, err)
	if torn {
		delete(held, pair[0].id)
	}
	for id := range held {
		require.Contains(w.t, w.results, id, "%s: %v is leased", at, held[id])
	}
}

// requireClean compares the machine with what it was like with live alone, and stale if it is still there.
func (w *world) requireClean(at string) {
	if w.results["stale"] != nil {
		return
	}
	if w.dumps.Dump() == w.clean {
		return
	}
	nstest.Settle(w.t, w.NS)
	require.Equal(w.t, w.clean, w.dumps.Dump(), at)
}

func describe(pair [2]act, k int) string {
	return fmt.Sprintf("%s before its change %d, meanwhile %s", pair[0], k, pair[1])
}

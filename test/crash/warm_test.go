//go:build linux

package crash_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// warm is a node on which a pod lives, and another came and went.
func warm(t *testing.T, c config) (n *node, clean string) {
	n = newNode(t, c)
	n.run(n.add("live"))
	another := func() { n.run(n.add("gone")); n.run(n.del("gone")) }
	another()
	return n, n.steady(another)
}

// lives proves that nothing happened to the pod that lives.
func (n *node) lives(clean, why string) {
	n.t.Helper()
	n.is(clean, "%s", why)
	n.run(n.check("live"))
}

// strikeAll tries a victim on a warm node: what is before it, and what the runtime does after it. Each world leaves the
// node as it was.
func strikeAll(t *testing.T, n *node, clean, config, name string, victim call, some int, before func(), worlds map[string]func(why string)) {
	t.Helper()
	names := sortedKeys(worlds)
	before()
	total := n.kill(victim, 0).Changes
	worlds[names[0]](name + " undisturbed")
	n.lives(clean, name+" undisturbed")
	tried := points(total, some, len(names), func(k, w int) bool {
		before()
		s := n.kill(victim, k)
		why := fmt.Sprintf("%s killed before change %d (%s), then %s", name, k, s.at, names[w])
		worlds[names[w]](why)
		n.lives(clean, why)
		return s.Killed
	})
	require.Positive(t, tried)
	report(t, row{config, name, total, tried})
}

func TestAKillBeforeAnyChangeOfADDLeavesNothing(t *testing.T) {
	t.Parallel()
	each(t, rareBridges, func(t *testing.T, c config) {
		n, clean := warm(t, c)
		strikeAll(t, n, clean, c.name, "ADD", n.add("a"), 9, func() {}, map[string]func(string){
			"DEL": func(why string) {
				n.run(n.del("a"))
				n.is(clean, "%s", why)
				n.attaches("a", why)
				n.run(n.del("a"))
			},
			"ADD of another": func(why string) {
				n.attaches("b", why)
				n.run(n.del("a"))
				n.run(n.del("b"))
			},
			"GC": func(why string) {
				n.run(n.gc("live"))
				n.is(clean, "%s", why)
				n.attaches("a", why)
				n.run(n.gc("live"))
			},
		})
	})
}

func TestAKillBeforeAnyChangeOfDELLeavesNothing(t *testing.T) {
	t.Parallel()
	each(t, common, func(t *testing.T, c config) {
		n, clean := warm(t, c)
		strikeAll(t, n, clean, c.name, "DEL", n.del("a"), 6, func() { n.run(n.add("a")) }, map[string]func(string){
			"DEL": func(string) {
				again := n.del("a")
				again.noNS = true
				n.run(again)
			},
			"ADD of another": func(why string) {
				n.attaches("b", why)
				n.run(n.del("b"))
				n.run(n.del("a"))
			},
			"GC": func(string) { n.run(n.gc("live")) },
		})
	})
}

func TestAKillBeforeAnyChangeOfGCLeavesNothing(t *testing.T) {
	t.Parallel()
	each(t, common, func(t *testing.T, c config) {
		n, clean := warm(t, c)
		before := func() { n.run(n.add("a")); n.run(n.add("c")) }
		strikeAll(t, n, clean, c.name, "GC", n.gc("live"), 6, before, map[string]func(string){
			"DEL": func(string) { n.run(n.del("a")); n.run(n.del("c")) },
			"ADD of another": func(why string) {
				n.attaches("b", why)
				for _, id := range []string{"a", "b", "c"} {
					n.run(n.del(id))
				}
			},
			"GC": func(string) { n.run(n.gc("live")) },
		})
	})
}

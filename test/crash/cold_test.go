//go:build linux

package crash_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	index = regexp.MustCompile(`(?m)^link \d+ |Index=\d+|#\d+`)
	mac   = regexp.MustCompile(`\b[0-9a-f]{2}(:[0-9a-f]{2}){5}\b`)
	local = regexp.MustCompile(`\b(fe80|ff02)::[0-9a-f:]+`)
)

// shape is a dump without what depends on chance: indexes, MACs of the kernel's choice, what derives from them.
func shape(dump string) string {
	dump = index.ReplaceAllString(dump, "link ")
	dump = mac.ReplaceAllString(dump, "MAC")
	dump = local.ReplaceAllString(dump, "$1::")
	lines := slices.Collect(strings.Lines(dump))
	slices.Sort(lines)
	return strings.Join(slices.Compact(lines), "")
}

// looks waits until the shape of the dump is what it is to be.
func (n *node) looks(want, why string) {
	n.t.Helper()
	n.soon(want, func() string { return shape(n.dump()) }, why)
}

func TestAKillBeforeAnyChangeOfTheFirstADDIsMendedAndCleanedUp(t *testing.T) {
	t.Parallel()
	each(t, everyone, func(t *testing.T, c config) {
		n := newNode(t, c)
		before := n.settled()
		total := n.kill(n.add("a"), 0).Changes
		n.run(n.check("a"))
		n.run(n.del("a"))
		network := shape(n.steady(func() { n.run(n.add("a")); n.run(n.del("a")) }))
		n.cleanup()
		n.is(before, "undisturbed, cleaned up")

		worlds := map[string]func(why string){
			"ADD again after DEL": func(why string) {
				n.run(n.del("a"))
				n.attaches("a", why)
				n.run(n.del("a"))
				n.looks(network, why)
			},
			"ADD of another": func(why string) {
				n.attaches("b", why)
				n.run(n.del("a"))
				n.run(n.del("b"))
				n.looks(network, why)
			},
			"ADD of another after GC": func(why string) {
				n.run(n.gc())
				n.attaches("b", why)
				n.run(n.del("b"))
				n.looks(network, why)
			},
			"cleanup": func(string) {},
		}
		names := sortedKeys(worlds)
		tried := points(total, 9, len(names), func(k, w int) bool {
			s := n.kill(n.add("a"), k)
			why := fmt.Sprintf("the first ADD killed before change %d (%s), then %s", k, s.at, names[w])
			worlds[names[w]](why)
			n.cleanup()
			n.is(before, "%s, cleaned up", why)
			return s.Killed
		})
		require.Positive(t, tried)
		report(t, row{c.name, "first ADD", total, tried})
	})
}

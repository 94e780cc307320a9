//go:build linux

package crash_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
)

func TestAKillBeforeAnyChangeOfANewListOfPeersIsMendedByTheNextCall(t *testing.T) {
	t.Parallel()
	each(t, overlays, func(t *testing.T, c config) {
		n := newNode(t, c)
		n.run(n.add("live"))
		n.run(n.up(n.conf))
		one := n.steady(func() { n.run(n.up(n.two)); n.run(n.up(n.conf)) })
		total := n.kill(n.up(n.two), 0).Changes
		two := n.settled()
		require.NotEqual(t, one, two)
		n.run(n.up(n.conf))
		n.is(one, "undisturbed, and back")

		worlds := map[string]func(why string){
			"up again": func(why string) {
				n.run(n.up(n.two))
				n.is(two, "%s", why)
				require.NoFileExists(t, n.dir+halfNote, why)
			},
			"up with the old list": func(string) {},
			"ADD": func(why string) {
				other := call{verb: cni.ADD, id: "b", conf: n.two}
				n.run(other)
				n.distinct(why)
				other.verb = cni.CHECK
				n.run(other)
				n.run(n.del("b"))
				n.is(two, "%s", why)
			},
		}
		names := sortedKeys(worlds)
		tried := points(total, 9, len(names), func(k, w int) bool {
			s := n.kill(n.up(n.two), k)
			why := fmt.Sprintf("overlay up killed before change %d (%s), then %s", k, s.at, names[w])
			worlds[names[w]](why)
			n.run(n.up(n.conf))
			n.is(one, "%s, then the old list", why)
			n.run(n.check("live"))
			return s.Killed
		})
		require.Positive(t, tried)
		report(t, row{c.name, "overlay up, other peers", total, tried})
	})
}

package overlay_test

import (
	"path/filepath"
	"testing"

	"github.com/cniblocks/cniblocks/cni/cnitest"
	"github.com/cniblocks/cniblocks/internal/test/lab"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/plugins/overlay"
)

func TestWhatTheNodeBecomesIsInTheTable(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.NFT, nstest.VXLAN)
	cnitest.Table{Plugin: overlay.Plugin{}, Delegates: delegates, Prepare: func(t testing.TB, node *netns.NS, _ string) {
		lab.NewWire(t).Join(node, "a", 11)
		nstest.Settle(t, node)
	}}.Run(t, filepath.Join("testdata", "node.txt"))
}

package bridge_test

import (
	"path/filepath"
	"testing"

	"github.com/cniblocks/cniblocks/cni/cnitest"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/plugins/bridge"
)

func TestWhatTheNodeBecomesIsInTheTable(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.NFT, nstest.NFTBridge)
	cnitest.Table{Plugin: bridge.Plugin{}}.Run(t, filepath.Join("testdata", "node.txt"))
}

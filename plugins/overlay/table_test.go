package overlay_test

import (
	"path/filepath"
	"testing"

	"github.com/cniblocks/cniblocks/cni/cnitest"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/plugins/overlay"
)

func TestWhatTheNodeBecomesIsInTheTable(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.NFT, nstest.VXLAN)
	cnitest.Table{Plugin: overlay.Plugin{}, Delegates: delegates, Prepare: func(t testing.TB, node *netns.NS, _ string) {
		nstest.Sysctl(t, node, "net/ipv6/conf/default/accept_dad", "0")
		nstest.Link(t, nstest.End{NS: node, Name: "eth0", Addrs: []string{"192.0.2.11/24", "2001:db8::11/64"}}, nstest.End{NS: nstest.New(t), Name: "wire"})
		nstest.Settle(t, node)
	}}.Run(t, filepath.Join("testdata", "node.txt"))
}

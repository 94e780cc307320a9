//go:build linux

package rtnl_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// world is a namespace seen through this package and through another library.
func world(t *testing.T) (ns *netns.NS, c *rtnl.Conn, other *netlink.Handle) {
	t.Helper()
	ns = nstest.New(t)
	c, err := rtnl.Open(ns)
	require.NoError(t, err)
	return ns, c, nstest.Netlink(t, ns)
}

// bridgeUp makes a bridge and returns its index.
func bridgeUp(t *testing.T, c *rtnl.Conn, name string) int {
	t.Helper()
	require.NoError(t, c.Do(rtnl.NewBridge(rtnl.Bridge{Name: name})))
	l, err := c.LinkByName(name)
	require.NoError(t, err)
	return l.Index
}

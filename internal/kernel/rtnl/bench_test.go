//go:build linux

package rtnl_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

func BenchmarkLinkByName(b *testing.B) {
	c, err := rtnl.Open(nstest.New(b))
	require.NoError(b, err)
	for b.Loop() {
		_, err := c.LinkByName("lo")
		require.NoError(b, err)
	}
}

func BenchmarkLinkByNameOfAnotherLibrary(b *testing.B) {
	h := nstest.Netlink(b, nstest.New(b))
	for b.Loop() {
		_, err := h.LinkByName("lo")
		require.NoError(b, err)
	}
}

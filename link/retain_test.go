//go:build linux

package link_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/veth"
)

func TestRetainRemovesTheLinksOfANetworkThatNobodyKeepsAndNoOther(t *testing.T) {
	t.Parallel()
	nstest.NeedRoot(t)
	node, pod := nstest.New(t), nstest.New(t)
	nstest.Settle(t, node)
	make := func(network, id string) (alias string, index int) {
		alias = link.Alias(network, id, "eth0")
		p, err := veth.Create(t.Context(), veth.Pair{Host: veth.End{NS: node, Name: "h" + network + id}, Pod: veth.End{NS: pod, Name: "p" + network + id}, Alias: alias})
		require.NoError(t, err)
		return alias, p.Host.Index
	}
	make("other", "0")
	kept, _ := make("net", "k")
	before := nstest.DumpLinks(node)
	var all []int
	for i := range 20 {
		_, index := make("net", fmt.Sprint(i))
		all = append(all, index)
	}
	require.NoError(t, veth.DeleteIndex(t.Context(), node, all[7]), "one vanishes meanwhile")
	require.NoError(t, link.DeleteAll(t.Context(), node, "veth", all[:10]...))
	require.NoError(t, link.DeleteAll(t.Context(), node, "veth", all[:10]...), "none is left")
	require.NoError(t, link.Retain(t.Context(), node, "bridge", "net"), "another kind")
	left, err := link.List(t.Context(), node, "veth")
	require.NoError(t, err)
	require.Len(t, left, 12)
	require.NoError(t, link.Retain(t.Context(), node, "veth", "net", kept))
	require.Equal(t, before, nstest.DumpLinks(node))
}

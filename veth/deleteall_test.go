package veth_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/veth"
)

func TestDeleteAllRemovesThePairsAndNoOther(t *testing.T) {
	t.Parallel()
	nstest.NeedRoot(t)
	node, pod := nstest.New(t), nstest.New(t)
	nstest.Settle(t, node)
	before := nstest.Dump(node)
	for i := range 50 {
		name := fmt.Sprint("p", i)
		_, err := veth.Create(t.Context(), veth.Pair{Host: veth.End{NS: node, Name: "h" + name}, Pod: veth.End{NS: pod, Name: name},
			Alias: link.Alias("net", name, "eth0")})
		require.NoError(t, err)
	}
	hosts, err := veth.List(t.Context(), node, link.AliasPrefix("net"))
	require.NoError(t, err)
	require.Len(t, hosts, 50)
	require.NoError(t, veth.Delete(t.Context(), node, hosts[7].Name), "one vanishes meanwhile")
	require.NoError(t, veth.DeleteAll(t.Context(), node, hosts[:49]...))
	left, err := veth.List(t.Context(), node, link.AliasPrefix("net"))
	require.NoError(t, err)
	require.Equal(t, hosts[49:], left)
	require.NoError(t, veth.DeleteAll(t.Context(), node, left...))
	require.NoError(t, veth.DeleteAll(t.Context(), node, left...), "none is left")
	require.Equal(t, before, nstest.Dump(node))
}

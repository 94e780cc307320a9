//go:build linux

package nft_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

func TestAWatchTellsOfEveryTransactionAndEndsWhenItIsClosed(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.NFT)
	ns := nstest.New(t)
	w, err := nft.OpenWatch(ns)
	require.NoError(t, err)
	c, err := nft.Open(ns)
	require.NoError(t, err)
	for _, name := range []string{"a", "b"} {
		var b nft.Batch
		b.AddTable(nft.Table{Family: nft.INet, Name: name})
		require.NoError(t, c.Commit(0, &b))
		require.NoError(t, w.Wait())
	}
	ended := make(chan error)
	go func() { ended <- w.Wait() }()
	require.NoError(t, w.Close())
	require.ErrorIs(t, <-ended, os.ErrClosed)
}

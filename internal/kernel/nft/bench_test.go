//go:build linux

package nft_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/kernel/nft"
)

// What an ADD asks: whether a set has an element.
func BenchmarkQuery(b *testing.B) {
	_, c := open(b)
	one := nft.Element{Key: bytesOf("10.0.0.1")}
	require.NoError(b, c.Update(b.Context(), func(batch *nft.Batch) error {
		batch.AddTable(table)
		batch.AddSet(nft.Set{Table: table, Name: "s", Key: nft.AddrIPv4})
		batch.AddElements(table, "s", []nft.Element{one})
		return nil
	}))
	for b.Loop() {
		_, err := c.Query(nft.GetElements(table, "s", one))
		require.NoError(b, err)
	}
}

//go:build linux

package nft

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

func TestAfterADumpWhoseAnswerWasLostTheConnectionServesOn(t *testing.T) {
	t.Parallel()
	c, err := Open(nstest.New(t))
	require.NoError(t, err)
	table := Table{Family: INet, Name: "t"}
	const n = 1000 // more than the kernel has ready at once
	require.NoError(t, c.Update(t.Context(), func(b *Batch) error {
		b.AddTable(table)
		for i := range n {
			b.AddChain(Chain{Table: table, Name: fmt.Sprint("c", i)})
			b.AppendRule(Rule{Table: table, Chain: "c0", Exprs: Exprs{}.Counter()})
		}
		return nil
	}))
	buf := c.buf
	c.buf = make([]byte, 64)
	_, err = c.Rules(table, "c0")
	require.ErrorIs(t, err, unix.EMSGSIZE)
	c.buf = buf
	rules, err := c.Rules(table, "c0")
	require.NoError(t, err)
	require.Len(t, rules, n)
}

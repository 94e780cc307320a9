//go:build linux

package rtnl

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

func TestAfterADumpWhoseAnswerWasLostTheSocketServesOn(t *testing.T) {
	t.Parallel()
	c, err := Open(nstest.New(t))
	require.NoError(t, err)
	const n = 100 // more than the kernel has ready at once
	var msgs []*Msg
	for i := range n {
		msgs = append(msgs, NewBridge(Bridge{Name: fmt.Sprint("br", i)}))
	}
	require.NoError(t, c.Do(msgs...))
	buf := c.buf
	for _, ask := range []func() error{
		func() error { _, err := c.Links(""); return err },
		func() error { return c.Do(GetLink("br0", nil)) },
	} {
		c.buf = make([]byte, 64)
		require.ErrorContains(t, ask(), "a message is longer than 64 bytes")
		c.buf = buf
		links, err := c.Links("")
		require.NoError(t, err)
		require.Len(t, links, n+1)
		require.NoError(t, c.Do(GetLink("br1", nil)))
	}
}

package bridge_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/nstest"
)

func TestPodsReachEachOtherTheNodeAndTheOutsideOverBothFamilies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := nstest.Dump(w.node)
	conf := w.conf(nil)
	a, b := w.pod("a"), w.pod("b")
	ra, rb := a.add(conf), b.add(conf)
	require.Len(t, ra.IPs, 2)
	for i := range ra.IPs {
		reach(t, a.pod, rb.IPs[i].Address.Addr())
		reach(t, b.pod, ra.IPs[i].Gateway)
	}
	reach(t, a.pod, outside4)
	reach(t, a.pod, outside6)
	for _, p := range []*attachment{a, b} {
		require.Zero(t, p.check(conf).status, "%s", p.check(conf).out)
		p.del(conf)
	}
	t.Log(before)
	t.Log(nstest.Dump(w.node))
}

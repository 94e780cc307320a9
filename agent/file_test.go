//go:build linux

package agent_test

import (
	"testing"

	"github.com/cniblocks/cniblocks/internal/nstest"
)

func TestThreeAgentsOnOneFileLetPodsReachEachOther(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		encap string
		needs []nstest.Feature
	}{
		{"vxlan", []nstest.Feature{nstest.VXLAN}},
		{"host-gw", nil},
		{"gre", []nstest.Feature{nstest.GRE, nstest.IP6GRE}},
		{"ipip", []nstest.Feature{nstest.IPIP, nstest.SIT}},
		{"geneve", []nstest.Feature{nstest.Geneve}},
	} {
		t.Run(c.encap, func(t *testing.T) {
			t.Parallel()
			nstest.Need(t, c.needs...)
			w := newWorld(t, 3)
			w.peers(w.machines...)
			for _, m := range w.machines {
				m.byFile(c.encap)
				m.run()
				m.attach(m.pods...)
			}
			for _, m := range w.machines {
				m.ready()
			}
			w.reachAll()
		})
	}
}

package overlay_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

// gc calls GC with these containers as the valid ones.
func (m *machine) gc(conf string, valid ...string) {
	m.w.t.Helper()
	list := []cni.Attachment{}
	for _, id := range valid {
		list = append(list, cni.Attachment{ContainerID: id, IfName: "eth0"})
	}
	m.pod("").must(cni.GC, with(conf, "cni.dev/valid-attachments", list))
}

func TestGCLeavesTheMasqueradingOfPodsThatLive(t *testing.T) {
	t.Parallel()
	inner := map[string]any{"type": "host-gw", "peersFile": "PEERS", "delegate": map[string]any{"type": "bridge", "isDefaultGateway": true, "ipam": leases}}
	for name, keys := range map[string]map[string]any{
		"overlay": {}, "host-gw": {"type": "host-gw", "encap": nil}, "overlay over host-gw": {"delegate": inner},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2)
			file := w.peers("a", "b")
			m := w.machines[0]
			conf := strings.ReplaceAll(m.conf(keys), "PEERS", file)
			live, stale := m.pod("live"), m.pod("stale")
			live.add(conf)
			nstest.Settle(t, m.ns)
			before := nstest.Dump(m.ns)
			require.Contains(t, before, "masquerade")
			stale.add(conf)
			m.gc(conf, "live")
			require.Equal(t, before, nstest.Dump(m.ns))
			live.check(conf)
			m.gc(with(conf, "mtu", json.RawMessage(`"large"`)), "live")
			live.check(conf)
			m.gc(with(conf, "ipMasq", false), "live")
			require.NotContains(t, nstest.Dump(m.ns), "masquerade")
			m.pod("next").add(conf)
			m.gc(conf)
			require.NotContains(t, nstest.Dump(m.ns), "masquerade")
		})
	}
}

package overlay_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

func TestADuplicateADDLeavesTheAttachmentOfTheFirst(t *testing.T) {
	t.Parallel()
	inner := map[string]any{"type": "host-gw", "delegate": map[string]any{"type": "bridge", "isDefaultGateway": true, "ipam": leases}}
	for name, delegate := range map[string]map[string]any{"bridge": nil, "host-gw over bridge": inner} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2)
			keys := map[string]any{}
			if delegate != nil {
				delegate["peersFile"] = w.peers("a", "b")
				keys["delegate"] = delegate
			}
			w.peers("a", "b")
			m := w.machines[0]
			conf := m.conf(keys)
			p := m.pod("x")
			p.add(conf)
			nstest.Settle(t, m.ns)
			before := nstest.Dump(m.ns)
			require.Equal(t, cni.ErrConfig, p.refused(cni.ADD, conf, "the node has it already"))
			p.check(conf)
			require.Equal(t, before, nstest.Dump(m.ns))
			p.must(cni.DEL, conf)
			p.add(conf)
		})
	}
}

func TestTwoADDsAtOnceOfTheSamePodEndWithOneWholeAttachment(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	w.peers("a", "b")
	m := w.machines[0]
	conf := m.conf(nil)
	for range 5 {
		p := m.pod("x")
		type end struct {
			status int
			out    []byte
		}
		ends := make(chan end)
		for range 2 {
			go func() {
				status, out, _ := p.call(cni.ADD, conf)
				ends <- end{status, out}
			}()
		}
		a, b := <-ends, <-ends
		if a.status != 0 {
			a, b = b, a
		}
		require.Zero(t, a.status, "%s", a.out)
		require.NotZero(t, b.status, "%s", b.out)
		p.prev = a.out
		p.check(conf)
		p.must(cni.DEL, conf)
	}
}

func TestAForeignDelegateIsNotCalledForAnInterfaceThatIsThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	w.peers("a", "b")
	m := w.machines[0]
	calls := filepath.Join(w.dir, "calls")
	script := "#!/bin/sh\necho $CNI_COMMAND >> " + calls + "\nexit 1\n"
	require.NoError(t, os.WriteFile(filepath.Join(w.dir, "bridge"), []byte(script), 0o755))
	conf := m.conf(nil)
	p := m.pod("x")
	p.refused(cni.ADD, conf, "bridge")
	b, err := os.ReadFile(calls)
	require.NoError(t, err)
	require.Equal(t, "ADD\nDEL\n", string(b), "after a failed ADD comes DEL")

	nstest.Link(t, nstest.End{NS: p.ns, Name: "eth0"}, nstest.End{NS: m.ns, Name: "first"})
	require.Equal(t, cni.ErrConfig, p.refused(cni.ADD, conf, "call DEL first"))
	b, err = os.ReadFile(calls)
	require.NoError(t, err)
	require.Equal(t, "ADD\nDEL\n", string(b), "the interface is another ADD's")
}

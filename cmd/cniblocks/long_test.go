//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/machine"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/link"
)

func TestANetworkAndContainersOf255BytesAreServedShownAndCleanedUpWhateverTheUse(t *testing.T) {
	t.Parallel()
	network, container := strings.Repeat("n", 255), strings.Repeat("c", 254)
	for _, name := range []string{"bridge, guarded", "bridge, iptables", "vxlan", "vxlan, layer 2", "host-gw", "gre", "wireguard", "flannel"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			use := uses[name]
			nstest.Need(t, use.needs...)
			m := machine.Linked(t, linkedIn)
			m.SubnetEnv(t)
			foreign(t, m) // the tables of iptables stay when they are there
			before, files := nstest.Dump(m.NS), m.Files(t)
			conf := machine.With(strings.ReplaceAll(use.conf, "DIR", m.Dir), "name", network)
			do := func(verb cni.Verb, id string, p machine.Pod, conf string) []byte {
				t.Helper()
				out, err := m.Do(t.Context(), machine.Call{Verb: verb, ID: id, NetNS: p.Path, Conf: conf})
				require.NoError(t, err)
				return out
			}
			var pods []machine.Pod
			for _, id := range []string{"a", "b", "c"} {
				p, err := m.Pod(id)
				require.NoError(t, err)
				defer func() { require.NoError(t, p.Close()) }()
				pods = append(pods, p)
				res := do(cni.ADD, container+id, p, conf)
				do(cni.CHECK, container+id, p, machine.Check(conf, res))
			}
			do(cni.STATUS, "", machine.Pod{}, conf)
			args := []string{"--netns", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), m.NS.Fd()), "--data-dir", m.Dir, "--data-dir", m.Dir + "/flannel", "--state-dir", filepath.Join(m.Dir, "run")}
			shown := func() (lines int) {
				for _, form := range []string{"text", "json"} {
					status, out, errs := call(t, append([]string{"show", "-o", form, "--all"}, args...)...)
					require.Zero(t, status, errs)
					require.Empty(t, errs)
					require.Contains(t, out, network)
					lines = strings.Count(out, container)
				}
				return lines
			}
			three := shown()
			do(cni.GC, "", machine.Pod{}, machine.GC(conf, container+"a", container+"b"))
			two := shown()
			require.Less(t, two, three)
			do(cni.DEL, container+"b", pods[1], conf)
			require.Less(t, shown(), two)
			status, did, errs := call(t, append([]string{"cleanup", "--network", network}, args...)...)
			require.Zero(t, status, errs)
			nstest.Settle(t, m.NS)
			require.Equal(t, before, nstest.Dump(m.NS), "%s", did)
			require.Equal(t, files, withoutKeys(m.Files(t)), "%s", did)
		})
	}
}

func TestAnAgentOfANetworkOf255BytesServesPodsTellsItsStatusAndIsCleanedUp(t *testing.T) {
	t.Parallel()
	network, container := strings.Repeat("n", 255), strings.Repeat("c", 255)
	name, ns, state, end := agentOf(t, network)
	status, out, errs := call(t, "status", network, "--state-dir", state)
	require.Zero(t, status, errs)
	require.Contains(t, out, network+": ready")
	status, out, errs = call(t, "status", "--state-dir", state)
	require.Zero(t, status, errs)
	require.Contains(t, out, network+": ready")

	m := machine.Lent(ns, t.TempDir(), linkedIn)
	p, err := m.Pod("a")
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	conf := fmt.Sprintf(`{"cniVersion":"1.1.0","name":%q,"type":"host-gw","stateDir":%q,"delegate":{"type":"bridge","isDefaultGateway":true,"ipam":{"type":"host-local","dataDir":%q}}}`, network, state, m.Dir)
	do := func(verb cni.Verb, conf string) []byte {
		t.Helper()
		out, err := m.Do(t.Context(), machine.Call{Verb: verb, ID: container, NetNS: p.Path, Conf: conf})
		require.NoError(t, err)
		return out
	}
	do(cni.STATUS, conf)
	do(cni.CHECK, machine.Check(conf, do(cni.ADD, conf)))
	do(cni.GC, machine.GC(conf, container))
	clean := []string{"cleanup", "--netns", name, "--state-dir", state, "--data-dir", m.Dir, "--network", network}
	status, _, errs = call(t, clean...)
	require.Equal(t, failed, status)
	require.Contains(t, errs, "an agent keeps network")
	do(cni.DEL, conf)
	do(cni.ADD, conf)
	status, log := end()
	require.Zero(t, status, log)
	status, out, errs = call(t, clean...)
	require.Zero(t, status, errs)
	require.Contains(t, out, "removed")
	require.NotContains(t, nstest.Dump(ns), link.NetworkAlias(network))
	require.NoDirExists(t, filepath.Join(state, network))
}

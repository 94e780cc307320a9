package bridge_test

import (
	"crypto/sha512"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
)

func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		os.Stderr.Write(out)
	}
	return err
}

func (w *world) gc(conf string, valid ...*attachment) answer {
	list := []map[string]string{}
	for _, a := range valid {
		list = append(list, map[string]string{"containerID": a.id, "ifname": a.name})
	}
	return w.call(cni.GC, "", "", "", "", with(conf, "cni.dev/valid-attachments", list))
}

func TestGCRemovesExactlyTheStaleAttachmentsOfThisNetwork(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conf, other := w.conf(nil), w.conf(map[string]any{"name": "other", "bridge": "br1",
		"ipam": map[string]any{"type": "host-local", "dataDir": w.dir, "subnet": "10.3.0.0/24"}})
	live, stale, foreign := w.pod("live"), w.pod("stale"), w.pod("foreign")
	live.add(conf)
	stale.add(conf)
	foreign.add(other)
	ans := w.gc(conf, live)
	require.Zero(t, ans.status, "%s", ans.out)
	require.Equal(t, []string{"10.1.2.2", "fd00:1:2::2"}, w.leases())
	require.NotContains(t, w.dump(), "cniblocks/testnet/stale")
	require.Zero(t, live.check(conf).status, "%s", live.check(conf).out)
	require.Zero(t, foreign.check(other).status, "%s", foreign.check(other).out)
	reach(t, live.pod, outside6)
}

func TestGCGoesOnAfterAnErrorAndReportsIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conf := w.conf(nil)
	stale := w.pod("stale")
	stale.add(conf)
	// A lease directory that cannot be read.
	dir := filepath.Join(w.dir, "testnet")
	require.NoError(t, os.Rename(dir, dir+".aside"))
	require.NoError(t, os.WriteFile(dir, nil, 0o600))
	ans := w.gc(conf)
	require.Equal(t, 1, ans.status)
	require.NotEqual(t, cni.ErrInternal, ans.code(), "%s", ans.out)
	require.NotContains(t, w.dump(), "cniblocks/testnet/stale")
}

func TestTheLastGCTakesTheNetworksSNATRule(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conf := w.conf(nil)
	before := w.dump()
	a := w.pod("a")
	a.add(conf)
	require.Contains(t, w.dump(), "masquerade")
	require.Zero(t, w.gc(conf, a).status)
	require.Contains(t, w.dump(), "masquerade")
	require.Zero(t, w.gc(conf).status)
	require.NotContains(t, w.dump(), "masquerade")
	require.NotContains(t, before, "masquerade")
	a2 := w.pod("a")
	a2.add(conf)
	reach(t, a2.pod, outside4)
}

func TestSTATUSIsWellOnlyIfAnADDCouldSucceedNow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	status := func(keys map[string]any) answer { return w.call(cni.STATUS, "", "", "", "", w.conf(keys)) }
	require.Zero(t, status(nil).status, "%s", status(nil).out)

	gone := status(map[string]any{"ipam": map[string]any{"type": "nowhere"}})
	require.Equal(t, cni.ErrNotAvailable, gone.code())
	require.Contains(t, gone.msg(), `"nowhere" is neither linked in nor in CNI_PATH`)

	small := map[string]any{"ipam": map[string]any{"type": "host-local", "dataDir": w.dir, "subnet": "10.9.9.0/30"}}
	require.Zero(t, status(small).status)
	a := w.pod("a")
	a.add(w.conf(small))
	full := status(small)
	require.Equal(t, cni.ErrNotAvailable, full.code(), "%s", full.out)
	require.Contains(t, full.msg(), "no address left")
	a.del(w.conf(small))
	require.Zero(t, status(small).status)

	taken := status(map[string]any{"bridge": "uplink"})
	require.Equal(t, cni.ErrNotAvailable, taken.code())
	require.Contains(t, taken.msg(), "uplink is a veth, not a bridge")
}

func TestGCTakesOneOfTwoInterfacesOfAContainerAndLeavesTheOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conf := w.conf(nil)
	eth0 := w.pod("a")
	eth1 := &attachment{w: w, id: "a", name: "eth1", pod: eth0.pod}
	eth0.add(conf)
	second := w.conf(map[string]any{"isDefaultGateway": false})
	eth1.add(second)
	require.Zero(t, w.gc(conf, eth0, eth1).status)
	require.Zero(t, eth1.check(second).status, "%s", eth1.check(second).out)
	ans := w.gc(conf, eth0)
	require.Zero(t, ans.status, "%s", ans.out)
	require.NotContains(t, w.dump(), "cniblocks/testnet/a/eth1")
	require.Equal(t, []string{"10.1.2.2", "fd00:1:2::2"}, w.leases())
	require.Zero(t, eth0.check(conf).status, "%s", eth0.check(conf).out)
	reach(t, eth0.pod, outside4)
}

func TestGCLeavesWhatTheReferenceMadeForAContainerWhoseLeaseNamesNoInterface(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conf := w.conf(nil)
	w.settled(conf)
	live := &attachment{w: w, id: "live", name: "eth0"}
	require.NoError(t, os.WriteFile(filepath.Join(w.dir, "testnet", "10.1.2.9"), []byte(live.id), 0o600))
	sum := sha512.Sum512([]byte("testnet" + live.id))
	chain := "CNI-" + hex.EncodeToString(sum[:])[:24]
	require.NoError(t, w.node.Do(func() error {
		return run("nft", "table ip nat { chain "+chain+" { masquerade; }; chain POSTROUTING { type nat hook postrouting priority 100; ip saddr 10.1.2.9 jump "+chain+"; }; }")
	}))
	require.Zero(t, w.gc(conf, live).status)
	require.Contains(t, w.dump(), "jump "+chain)
	require.Equal(t, []string{"10.1.2.9"}, w.leases())
	require.Zero(t, w.gc(conf).status)
	require.NotContains(t, w.dump(), chain)
	require.Empty(t, w.leases())
}

func TestAGCWhoseListCannotBeRightRemovesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conf := w.conf(nil)
	a := w.pod("a")
	a.add(conf)
	before := w.dump()
	gc := func(conf string) answer { return w.call(cni.GC, "", "", "", "", conf) }
	for name, conf := range map[string]string{
		"no list":        conf,
		"no interface":   with(conf, "cni.dev/valid-attachments", []map[string]string{{"containerID": "a"}}),
		"no container":   with(conf, "cni.dev/valid-attachments", []map[string]string{{"containerID": "a", "ifname": "eth0"}, {"ifname": "eth0"}}),
		"an empty entry": with(conf, "cni.dev/attachments", []any{nil}),
		"no list at all": with(conf, "cni.dev/valid-attachments", map[string]string{"containerID": "a", "ifname": "eth0"}),
	} {
		ans := gc(conf)
		require.Equal(t, cni.ErrConfig, ans.code(), "%s: %s", name, ans.out)
		require.Contains(t, ans.msg(), "cni.dev/", name)
		require.Equal(t, before, w.dump(), name)
	}
	for _, none := range []any{[]any{}, nil} {
		require.Zero(t, gc(with(conf, "cni.dev/valid-attachments", none)).status)
		require.NotContains(t, w.dump(), "cniblocks/testnet/a")
		require.Empty(t, w.leases())
		b := w.pod("a")
		b.add(conf)
	}
}

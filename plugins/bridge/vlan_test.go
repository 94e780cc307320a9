package bridge_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
)

// vlanConf is a network of one VLAN, IPv4 and IPv6, on the shared bridge.
func (w *world) vlanConf(id int, keys map[string]any) string {
	c := map[string]any{"name": fmt.Sprint("vlan", id), "vlan": id, "ipMasq": false, "ipam": map[string]any{"type": "host-local", "dataDir": w.dir,
		"ranges": [][]map[string]any{{{"subnet": fmt.Sprintf("10.%d.0.0/24", id)}}, {{"subnet": fmt.Sprintf("fd00:%d::/64", id)}}}}}
	for k, v := range keys {
		c[k] = v
	}
	return w.conf(c)
}

func silent(t *testing.T, from *netns.NS, to netip.Addr) {
	t.Helper()
	require.Error(t, nstest.Ping(t.Context(), from, to, ping.Options{Timeout: 700 * time.Millisecond}), "ping %s", to)
}

// portVLANs are those of the attachment's port: by ID, whether untagged frames enter it, and whether they leave it untagged.
func (a *attachment) portVLANs(network string) map[int][2]bool {
	a.w.t.Helper()
	h := nstest.Netlink(a.w.t, a.w.node)
	l, err := h.LinkByName(link.HostName(network, a.id, a.name))
	require.NoError(a.w.t, err)
	all, err := h.BridgeVlanList()
	require.NoError(a.w.t, err)
	have := map[int][2]bool{}
	for _, v := range all[int32(l.Attrs().Index)] {
		have[int(v.Vid)] = [2]bool{v.PortVID(), v.EngressUntag()}
	}
	return have
}

func TestVLANPodsTalkWithinTheirVLANAndWithItsGateway(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VLANFiltering)
	w := newWorld(t)
	// Without a default gateway the node cannot carry packets from one VLAN to the other.
	one, two := w.vlanConf(100, map[string]any{"isDefaultGateway": false}), w.vlanConf(200, map[string]any{"isDefaultGateway": false})
	a, b, c := w.pod("a"), w.pod("b"), w.pod("c")
	ra, rb, rc := a.add(one), b.add(one), c.add(two)
	for i := range ra.IPs {
		reach(t, a.pod, rb.IPs[i].Address.Addr())
		reach(t, a.pod, ra.IPs[i].Gateway)
		reach(t, c.pod, rc.IPs[i].Gateway)
	}
	require.Equal(t, "br0.100", ra.Interfaces[3].Name)
	require.Equal(t, map[int][2]bool{100: {true, true}}, a.portVLANs("vlan100"))
	for _, p := range []*attachment{a, b} {
		require.Zero(t, p.check(one).status, "%s", p.check(one).out)
	}
	require.Zero(t, c.check(two).status, "%s", c.check(two).out)

	// The same subnet on both sides: nothing passes but what the VLAN lets.
	nstest.AddAddrs(t, a.pod, "eth0", "192.168.77.1/24")
	nstest.AddAddrs(t, b.pod, "eth0", "192.168.77.2/24")
	nstest.AddAddrs(t, c.pod, "eth0", "192.168.77.3/24")
	reach(t, a.pod, netip.MustParseAddr("192.168.77.2"))
	silent(t, a.pod, netip.MustParseAddr("192.168.77.3"))
	silent(t, c.pod, netip.MustParseAddr("192.168.77.2"))

	a.del(one)
	b.del(one)
	c.del(two)
	require.NotContains(t, w.dump(), "cniblocks/vlan100/")
}

func TestVLANPodsReachOutsideThroughTheirGateway(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VLANFiltering, nstest.NFT)
	w := newWorld(t)
	conf := w.vlanConf(100, map[string]any{"ipMasq": true})
	clean := w.settled(conf)
	a := w.pod("a")
	a.add(conf)
	reach(t, a.pod, outside4)
	reach(t, a.pod, outside6)
	require.Zero(t, a.check(conf).status)
	a.del(conf)
	require.Equal(t, clean, w.dump())
}

func TestVLANTrunkOfAPodCarriesTags(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VLANFiltering, nstest.VLAN)
	w := newWorld(t)
	router := w.pod("router")
	conf := w.conf(map[string]any{"name": "trunk", "ipam": nil, "isGateway": false, "isDefaultGateway": false, "ipMasq": false,
		"vlan": 300, "vlanTrunk": []map[string]any{{"minID": 100, "maxID": 102}, {"id": 200}}})
	router.add(conf)
	require.Equal(t, map[int][2]bool{100: {}, 101: {}, 102: {}, 200: {}, 300: {true, true}}, router.portVLANs("trunk"))
	require.Zero(t, router.check(conf).status, "%s", router.check(conf).out)

	h := nstest.Netlink(t, router.pod)
	lower, err := h.LinkByName("eth0")
	require.NoError(t, err)
	for id, address := range map[int]string{100: "10.100.0.250/24", 200: "10.200.0.250/24", 400: "10.40.0.250/24"} {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex = fmt.Sprint("eth0.", id), lower.Attrs().Index
		require.NoError(t, h.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: id}))
		nstest.AddAddrs(t, router.pod, attrs.Name, address)
		nstest.SetUp(t, router.pod, attrs.Name)
	}
	a, b, c := w.pod("a"), w.pod("b"), w.pod("c")
	a.add(w.vlanConf(100, nil))
	b.add(w.vlanConf(200, nil))
	other := w.vlanConf(40, map[string]any{"vlan": 400})
	c.add(other)
	reach(t, a.pod, netip.MustParseAddr("10.100.0.250"))
	reach(t, b.pod, netip.MustParseAddr("10.200.0.250"))
	silent(t, c.pod, netip.MustParseAddr("10.40.0.250"))
}

func TestVLANTrunkWithoutANativeVLANAndTheDefaultVLANKept(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VLANFiltering)
	w := newWorld(t)
	l2 := map[string]any{"ipam": nil, "isGateway": false, "isDefaultGateway": false, "ipMasq": false}
	for name, c := range map[string]struct {
		keys map[string]any
		want map[int][2]bool
	}{
		"trunk": {map[string]any{"vlanTrunk": []map[string]any{{"id": 5}, {"id": 7}}}, map[int][2]bool{1: {true, true}, 5: {}, 7: {}}},
		"keep":  {map[string]any{"vlan": 5, "preserveDefaultVlan": true}, map[int][2]bool{1: {false, true}, 5: {true, true}}},
		"both": {map[string]any{"vlan": 5, "vlanTrunk": []map[string]any{{"id": 5}, {"id": 6}}, "preserveDefaultVlan": true},
			map[int][2]bool{1: {false, true}, 5: {true, true}, 6: {}}},
		"plain": {nil, map[int][2]bool{1: {true, true}}},
	} {
		keys := map[string]any{"name": name}
		for _, m := range []map[string]any{l2, c.keys} {
			for k, v := range m {
				keys[k] = v
			}
		}
		p, conf := w.pod(name), w.conf(keys)
		p.add(conf)
		require.Equal(t, c.want, p.portVLANs(name), name)
		require.Zero(t, p.check(conf).status, "%s: %s", name, p.check(conf).out)
	}
}

func TestVLANCheckFailsForAPortInAnotherVLANAndAGatewayThatIsGone(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VLANFiltering)
	w := newWorld(t)
	conf := w.vlanConf(100, nil)
	a := w.pod("a")
	a.add(conf)
	h := nstest.Netlink(t, w.node)
	port, err := h.LinkByName(link.HostName("vlan100", "a", "eth0"))
	require.NoError(t, err)
	require.NoError(t, h.BridgeVlanAdd(port, 200, false, false, false, true))
	ans := a.check(conf)
	require.Equal(t, cni.ErrIO, ans.code())
	require.Contains(t, ans.msg(), "VLANs more than configured")
	require.NoError(t, h.BridgeVlanDel(port, 200, false, false, false, true))
	require.NoError(t, h.BridgeVlanDel(port, 100, false, false, false, true))
	require.Contains(t, a.check(conf).msg(), "is not in VLAN 100 PVID untagged as configured")
	require.NoError(t, h.BridgeVlanAdd(port, 100, true, true, false, true))
	require.Zero(t, a.check(conf).status)
	delLink(w, w.node, "br0.100")
	require.Contains(t, a.check(conf).msg(), "br0.100")
	b := w.pod("b")
	b.add(conf)
	require.Zero(t, a.check(conf).status, "the next ADD makes it again: %s", a.check(conf).out)
	reach(t, a.pod, netip.MustParseAddr("10.100.0.1"))
}

func TestVLANPodsOfTheReferenceAreCheckedAndDeleted(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VLANFiltering)
	w, own, ref := newWorld(t), ours(t), theirs(t)
	conf := w.vlanConf(100, map[string]any{"cniVersion": "1.0.0", "vlanTrunk": []map[string]any{{"id": 7}}})
	pod := nstest.New(t)
	out, err := w.execute(ref, cni.ADD, "old", path(pod), conf)
	require.NoError(t, err)
	_, err = w.execute(own, cni.CHECK, "old", path(pod), with(conf, "prevResult", json.RawMessage(out)))
	require.NoError(t, err)
	reach(t, pod, netip.MustParseAddr("10.100.0.1"))
	mine := nstest.New(t)
	_, err = w.execute(own, cni.ADD, "new", path(mine), conf)
	require.NoError(t, err, "beside it, on the bridge and the gateway that the reference made")
	reach(t, mine, netip.MustParseAddr("10.100.0.1"))
	_, err = w.execute(own, cni.DEL, "old", path(pod), conf)
	require.NoError(t, err)
	_, err = w.execute(own, cni.DEL, "new", path(mine), conf)
	require.NoError(t, err)
}

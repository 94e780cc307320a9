package macvlan_test

import (
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/cni/cnitest"
	"github.com/cniblocks/cniblocks/internal/test/devicetest"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/plugins/macvlan"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func TestTheContainerIsWhatTheTableSays(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.Macvlan)
	prepare := func(t testing.TB, node *netns.NS, _ string) {
		devicetest.Uplink(t, node, nstest.New(t))
		nstest.Run(t, node, "ip", "route", "add", "default", "dev", "uplink")
	}
	cnitest.Table{Plugin: macvlan.Plugin(), Prepare: prepare}.Run(t, filepath.Join("testdata", "node.txt"))
}

func world(t *testing.T) *devicetest.World {
	t.Helper()
	return devicetest.New(t, "macvlan", macvlan.Plugin(), nstest.Macvlan)
}

func TestStationsReachEachOtherAndTheWireWhichForgetsWhoHadTheirAddress(t *testing.T) {
	t.Parallel()
	w := world(t)
	gateways := []netip.Addr{netip.MustParseAddr("10.7.0.1"), netip.MustParseAddr("fd00:7::1")}
	for _, stale := range []string{"10.7.0.2", "fd00:7::2"} {
		nstest.Run(t, w.Wire, "ip", "neigh", "add", stale, "dev", "wire", "lladdr", "02:00:00:00:00:99", "nud", "stale")
	}
	a, resA, _ := w.Add("a", w.Conf(`"master": "uplink"`))
	told, err := link.Neighbours(t.Context(), w.Wire, "wire")
	require.NoError(t, err)
	for _, n := range told {
		if n.Addr == netip.MustParseAddr("10.7.0.2") || n.Addr == netip.MustParseAddr("fd00:7::2") {
			require.Equal(t, resA.Interfaces[0].MAC, n.MAC.String(), n.Addr)
		}
	}
	b, _, _ := w.Add("b", w.Conf(`"master": "uplink"`))
	w.Reach(b, devicetest.Addrs(resA)...)
	w.Reach(a, gateways...)
	w.Reach(b, gateways...)
}

func TestAnAttachmentComesAndGoesWithoutATrace(t *testing.T) {
	t.Parallel()
	w := world(t)
	w.Live(w.Conf(`"master": "uplink", "mode": "vepa", "mtu": 1400`))
	w.Live(w.Bare(`"master": "uplink", "mode": "private"`))
}

func TestPodsOfTheReferenceChangeOver(t *testing.T) {
	t.Parallel()
	w := world(t)
	w.ChangeOver(w.Conf(`"master": "uplink", "mode": "private"`))
}

func TestTheMasterIsTheDeviceOfTheDefaultRouteOrOneOfTheContainer(t *testing.T) {
	t.Parallel()
	w := world(t)
	pod := nstest.New(t)
	w.Refused(cni.ADD, pod, w.Bare(""), cni.ErrConfig, `key "master" is missing, and the node has no default route whose interface it would be`)
	nstest.Run(t, w.Node, "ip", "route", "add", "default", "dev", "eth0", "metric", "50")
	nstest.Run(t, w.Node, "ip", "-6", "route", "add", "default", "dev", "eth0", "metric", "5")
	nstest.Run(t, w.Node, "ip", "route", "add", "default", "dev", "uplink", "metric", "40")
	uplink, err := link.Get(t.Context(), w.Node, "uplink")
	require.NoError(t, err)
	pod, _, check := w.Add("a", w.Bare(""))
	l, err := link.Get(t.Context(), pod, "eth0")
	require.NoError(t, err)
	require.Equal(t, uplink.Index, l.Lower)
	nstest.Run(t, w.Node, "ip", "route", "del", "default", "dev", "uplink")
	w.OK(cni.CHECK, "a", pod, w.Bare(""), check...)

	inside := w.Bare(`"master": "eth0", "linkInContainer": true, "mac": "02:00:00:00:00:07"`)
	added := w.Do(cnitest.Request{Verb: cni.ADD, ContainerID: "a", IfName: "mac0", Pod: pod, Config: inside})
	require.Zero(t, added.Status, "%s", added.Out)
	on, err := link.Get(t.Context(), pod, "mac0")
	require.NoError(t, err)
	require.Equal(t, []any{l.Index, "02:00:00:00:00:07"}, []any{on.Lower, on.MAC.String()})
	for _, verb := range []cni.Verb{cni.CHECK, cni.DEL} {
		a := w.Do(cnitest.Request{Verb: verb, ContainerID: "a", IfName: "mac0", Pod: pod, Config: inside, Prev: added.Out})
		require.Zero(t, a.Status, "%s", a.Out)
	}
	w.OK(cni.STATUS, "", nil, inside)
}

func TestTheMACIsTheRuntimesRatherThanTheNetconfs(t *testing.T) {
	t.Parallel()
	w := world(t)
	for want, q := range map[string]cnitest.Request{
		"02:00:00:00:00:01": {Config: w.Bare(`"master": "uplink", "mac": "02:00:00:00:00:01"`)},
		"02:00:00:00:00:02": {Config: w.Bare(`"master": "uplink", "mac": "02:00:00:00:00:01"`), Args: "MAC=02:00:00:00:00:02"},
		"02:00:00:00:00:03": {Config: w.Bare(`"master": "uplink", "mac": "02:00:00:00:00:01", "runtimeConfig": {"mac": "02:00:00:00:00:03"}`), Args: "MAC=02:00:00:00:00:02"},
	} {
		q.Verb, q.Pod = cni.ADD, nstest.New(t)
		a := w.Do(q)
		require.Zero(t, a.Status, "%s", a.Out)
		require.Contains(t, string(a.Out), want)
	}
}

func TestWhatCannotBeIsRefusedBeforeAnyChange(t *testing.T) {
	t.Parallel()
	w := world(t)
	nstest.Run(t, w.Node, "ip", "link", "add", "br0", "type", "bridge")
	nstest.Run(t, w.Node, "ip", "link", "set", "eth0", "master", "br0")
	pod := nstest.New(t)
	for keys, says := range map[string]string{
		`"master": "nowhere"`:                                              `key "master" is "nowhere", and the node has no interface of that name: want one`,
		`"master": "nowhere", "linkInContainer": true`:                     `key "master" is "nowhere", and the container has no interface`,
		`"master": "uplink", "mode": "hub"`:                                `key "mode" is "hub"; want "bridge", "private", "vepa", "passthru"`,
		`"master": "uplink", "mtu": 1501`:                                  `key "mtu" is 1501, and uplink, which is to carry the packets, has 1500: want at most that`,
		`"master": "uplink", "mtu": -1`:                                    `key "mtu" is -1`,
		`"master": "uplink", "mac": "01:00:00:00:00:01"`:                   `key "mac": MAC address "01:00:00:00:00:01"`,
		`"master": "uplink", "runtimeConfig": {"mac": "nonsense"}`:         `key "runtimeConfig.mac": MAC address "nonsense"`,
		`"master": "eth0"`:                                                 `key "master" is "eth0": it is a port of a bridge or bond, or has ipvlan interfaces`,
		`"master": "uplink", "bcqueuelen": -1`:                             `key "bcqueuelen"`,
		`"master": "uplink", "mode": "passthru", "linkInContainer": "yes"`: `key "linkInContainer"`,
	} {
		w.Refused(cni.ADD, pod, w.Conf(keys), cni.ErrConfig, says)
	}
	w.Refused(cni.STATUS, nil, w.Conf(`"master": "nowhere"`), cni.ErrConfig, `key "master" is "nowhere"`)
	_, _, _ = w.Add("a", w.Bare(`"master": "uplink"`))
	w.Refused(cni.ADD, pod, w.Conf(`"master": "uplink", "mode": "passthru"`), cni.ErrConfig, `key "mode" is "passthru": an interface in mode "passthru" is alone on its master`)
}

func TestAnAddressThatTheWireHasAlreadyFailsTheADDWithoutATrace(t *testing.T) {
	t.Parallel()
	w := world(t)
	nstest.AddAddrs(t, w.Wire, "wire", "fd00:7::2/64")
	nstest.Settle(t, w.Wire)
	w.Refused(cni.ADD, nstest.New(t), w.Conf(`"master": "uplink"`), cni.ErrIO, "fd00:7::2: duplicate address detection: another station has it")
}

func TestCHECKNamesWhateverIsNotAsADDLeftIt(t *testing.T) {
	t.Parallel()
	w := world(t)
	pod, _, check := w.Add("a", w.Conf(`"master": "uplink"`))
	says := func(conf, what string) {
		t.Helper()
		a := w.Call(cni.CHECK, "a", pod, conf, check...)
		require.Equal(t, 1, a.Status, what)
		require.Contains(t, string(a.Out), what)
	}
	says(w.Conf(`"master": "uplink", "mode": "vepa"`), `is \"macvlan mode bridge\"; want \"macvlan mode vepa\"`)
	says(w.Conf(`"master": "eth0"`), "stands on the device of index")
	says(w.Conf(`"master": "nowhere"`), "nowhere")
	nstest.Run(t, pod, "ip", "address", "del", "10.7.0.2/24", "dev", "eth0")
	says(w.Conf(`"master": "uplink"`), "address 10.7.0.2/24 is missing on eth0")
	nstest.Run(t, pod, "ip", "link", "set", "eth0", "alias", "yours")
	says(w.Conf(`"master": "uplink"`), `has the alias \"yours\"`)
	w.OK(cni.DEL, "a", pod, w.Conf(`"master": "uplink"`))
	_, err := link.Get(t.Context(), pod, "eth0")
	require.NoError(t, err, "it is another's")
	nstest.Run(t, pod, "ip", "link", "del", "eth0")
	says(w.Conf(`"master": "uplink"`), "interface eth0 in")
}

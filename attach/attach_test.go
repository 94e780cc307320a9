//go:build linux

package attach_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/attach"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/cni/cnitest"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/masq"
	"github.com/cniblocks/cniblocks/route"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// conf is a plugin's netconf with a key of its own.
type conf struct {
	attach.Conf
	Colour string `json:"colour"`
}

func (c *conf) Validate(*cni.Request) error {
	if c.Colour == "none" {
		return cni.Errorf(cni.ErrConfig, `netconf: key "colour" is "none"`)
	}
	return nil
}

func read(t *testing.T, verb cni.Verb, keys string) (*attach.Pod, *conf, error) {
	t.Helper()
	r, err := (&cni.Request{Verb: verb, ContainerID: "c1", IfName: "eth0"}).With(verb, []byte(`{"cniVersion": "1.1.0", "name": "net", "type": "test",
		"cni.dev/valid-attachments": [], `+keys+`}`))
	require.NoError(t, err)
	c := &conf{}
	p, err := attach.Read(r, c)
	return p, c, err
}

func TestWhatIsWrongIsRefusedByADDAndKeepsDELAndGCFromNothing(t *testing.T) {
	t.Parallel()
	const good = `"ipam": {"type": "host-local", "dataDir": "/leases", "subnet": "10.1.0.0/24"}, "mtu": 1400`
	for bad, key := range map[string]string{
		good + `, "colour": "none"`: "colour", good + `, "colour": 3`: "colour", `"mtu": 12, ` + good[:len(good)-len(`, "mtu": 1400`)]: "mtu",
		good + `, "ipMasqBackend": "pf"`: "ipMasqBackend", good + `, "ipMasqExcept": ["10.0.0.1/8"]`: "ipMasqExcept",
		good + `, "runtimeConfig": {"mac": "ff:ff:ff:ff:ff:ff"}`:                                                     "runtimeConfig.mac",
		`"ipam": {"type": "host-local", "dataDir": "/leases", "ranges": [[{"subnet": "10.1.0.0/99"}]]}`:              "ipam",
		`"mtu": 1000, "ipam": {"type": "host-local", "dataDir": "/leases", "ranges": [[{"subnet": "fd00:1::/64"}]]}`: "mtu",
	} {
		for _, verb := range []cni.Verb{cni.ADD, cni.CHECK, cni.STATUS} {
			_, _, err := read(t, verb, bad)
			require.Equal(t, cni.ErrConfig, cni.CodeOf(err), "%s: %v", bad, err)
			require.ErrorContains(t, err, key)
		}
		for _, verb := range []cni.Verb{cni.DEL, cni.GC} {
			p, c, err := read(t, verb, bad)
			require.NoError(t, err, bad)
			require.True(t, p.Partial)
			require.Empty(t, p.Pools)
			require.Equal(t, "host-local", c.IPAM.Type)
			require.Equal(t, "/leases", c.IPAM.DataDir)
			require.Len(t, p.Warnings(), 1)
			require.Contains(t, p.Warnings()[0], key)
		}
	}
	p, c, err := read(t, cni.ADD, good+`, "colour": "red", "args": {"cni": {"mac": "02:00:00:00:00:01"}}, "runtimeConfig": {"mac": "02:00:00:00:00:02"}`)
	require.NoError(t, err)
	require.Equal(t, "red", c.Colour)
	require.Equal(t, inet.MAC{2, 0, 0, 0, 0, 2}, p.MAC)
	require.Equal(t, "10.1.0.0/24", p.Pools[0][0].Subnet.String())
	require.Empty(t, p.Warnings())
}

func TestARouteWithoutANextHopGoesToTheGatewayOfItsFamily(t *testing.T) {
	t.Parallel()
	ips := []cni.IP{{Address: netip.MustParsePrefix("10.1.0.2/24"), Gateway: netip.MustParseAddr("10.1.0.1")},
		{Address: netip.MustParsePrefix("fd00:1::2/64"), Gateway: netip.MustParseAddr("fe80::1")}}
	far, dst4, dst6 := netip.MustParseAddr("169.254.1.1"), netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")
	require.Equal(t, []route.Route{
		{Dst: dst4, Via: ips[0].Gateway, MTU: 1300, Metric: 7},
		{Dst: dst4, Via: far, OnLink: true},
		{Dst: dst4, Scope: unix.RT_SCOPE_LINK},
		{Dst: dst6, Via: ips[1].Gateway},
	}, attach.Routes([]cni.Route{{Dst: dst4, MTU: 1300, Priority: 7}, {Dst: dst4, GW: far}, {Dst: dst4, Scope: unix.RT_SCOPE_LINK}, {Dst: dst6}}, ips))
	require.Equal(t, []inet.Family{inet.IPv4, inet.IPv6}, attach.Families(ips))
	require.Equal(t, []inet.Family{inet.IPv6}, attach.Families(ips[1:]))
}

func TestAnADDThatFailsTakesBackItsDeviceBeforeItsAddress(t *testing.T) {
	t.Parallel()
	nstest.NeedRoot(t)
	node, pod := nstest.New(t), nstest.New(t)
	nstest.Settle(t, node)
	before := nstest.Dump(node)
	fake := &cnitest.IPAM{Leases: []string{"10.1.0.2/24"}}
	step := errors.New("the last step")
	add := plugin(func(ctx context.Context, r *cni.Request) (_ *cni.Result, err error) {
		p, err := attach.Begin(r, &conf{})
		if err != nil {
			return nil, err
		}
		defer p.Close()
		defer p.OnError(ctx, &err)
		if _, err := p.Veth(ctx, p.Pair(), 0); err != nil {
			return nil, err
		}
		res := &cni.Result{}
		if err := p.Addresses(ctx, res, cni.NoInterface); err != nil {
			return nil, err
		}
		require.Len(t, fake.Held(), 1)
		return res, step
	})
	a, err := cnitest.Request{Pod: pod, Config: `{"cniVersion": "1.1.0", "name": "net", "type": "test", "ipam": {"type": "fake"}}`}.Run(t.Context(), node, add, cni.Delegates{"fake": after{fake, func() {
		pairs, err := link.List(t.Context(), node, "veth")
		require.NoError(t, err)
		require.Empty(t, pairs, "an address must not return to the pool while a device bears it")
	}}})
	require.NoError(t, err)
	require.Equal(t, 1, a.Status)
	require.Contains(t, string(a.Out), step.Error())
	require.Empty(t, fake.Held())
	nstest.Settle(t, node)
	require.Equal(t, before, nstest.Dump(node))
}

// after is an IPAM plugin whose DEL looks first.
type after struct {
	*cnitest.IPAM
	look func()
}

func (a after) Del(ctx context.Context, r *cni.Request) error {
	a.look()
	return a.IPAM.Del(ctx, r)
}

// plugin is one that can add and does nothing else.
type plugin func(context.Context, *cni.Request) (*cni.Result, error)

func (p plugin) Add(ctx context.Context, r *cni.Request) (*cni.Result, error) { return p(ctx, r) }
func (plugin) Del(context.Context, *cni.Request) error                        { return nil }
func (plugin) Check(context.Context, *cni.Request) error                      { return nil }
func (plugin) Status(context.Context, *cni.Request) error                     { return nil }
func (plugin) GC(context.Context, *cni.Request) error                         { return nil }

func TestWhatValidAttachmentsNeedOfTheSNATStaysWhereTheConfigurationIsNotKnown(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.NFT)
	node := nstest.New(t)
	policy := masq.Policy{Network: "net", Sources: []inet.Range{inet.RangeOf(netip.MustParsePrefix("10.1.0.0/24"))}}
	_, err := masq.Ensure(t.Context(), node, "", policy)
	require.NoError(t, err)
	gc := func(valid []cni.Attachment, keys string) {
		t.Helper()
		a, err := cnitest.Request{Verb: cni.GC, Valid: valid, Config: `{"cniVersion": "1.1.0", "name": "net", "type": "test"` + keys + `}`}.Run(t.Context(), node, collector{}, nil)
		require.NoError(t, err)
		require.Zero(t, a.Status, "%s", a.Out)
	}
	stands := func() bool { return (masq.NFT{NS: node}).Check(t.Context(), policy) == nil }
	one := []cni.Attachment{{ContainerID: "c1", IfName: "eth0"}}
	gc(one, `, "mtu": "broken"`)
	require.True(t, stands())
	gc([]cni.Attachment{}, `, "ipMasqElsewhere": true`)
	require.True(t, stands())
	gc(one, "")
	require.False(t, stands(), "the network is no longer to have any")
	_, err = masq.Ensure(t.Context(), node, "", policy)
	require.NoError(t, err)
	gc([]cni.Attachment{}, `, "mtu": "broken"`)
	require.False(t, stands())
}

// collector is a plugin that collects garbage.
type collector struct{ plugin }

func (collector) GC(ctx context.Context, r *cni.Request) error {
	p, err := attach.Begin(r, &conf{})
	if err != nil {
		return err
	}
	defer p.Close()
	return p.Collect(ctx)
}

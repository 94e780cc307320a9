package peer_test

import (
	"iter"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/peer"
)

func local(s string) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		for _, s := range strings.Fields(s) {
			if !yield(addr(s)) {
				return
			}
		}
	}
}

func three() []peer.Peer {
	a, b, c := at("node-a", "192.0.2.11", "10.1.0.0/24"), at("node-b", "192.0.2.12", "10.2.0.0/24"), at("node-c", "192.0.2.13", "10.3.0.0/24")
	a.V6.Addr, b.V6.Addr = addr("2001:db8::11"), addr("2001:db8::12")
	return []peer.Peer{a, b, c}
}

func TestWhichPeerThisMachineIs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ what, stated, local, host, want string }{
		{"the stated name wins over all", "node-a", "192.0.2.12", "node-c", "node-a"},
		{"an endpoint wins over the host name", "", "127.0.0.1 10.9.9.9 192.0.2.12", "node-c", "node-b"},
		{"an IPv6 endpoint counts too", "", "::1 fe80::1%eth0 2001:db8::12", "node-c", "node-b"},
		{"both endpoints of one peer are one peer", "", "192.0.2.12 2001:db8::12", "", "node-b"},
		{"the host name is the last", "", "127.0.0.1 ::1", "node-c", "node-c"},
		{"no addresses", "", "", "node-c", "node-c"},
		{"case does not count in host names", "", "", "Node-C", "node-c"},
	} {
		p, err := peer.Self(three(), c.stated, local(c.local), c.host)
		require.NoError(t, err, c.what)
		require.Equal(t, c.want, p.Name, c.what)
		require.True(t, slices.ContainsFunc(three(), p.Equal), "the whole of it")
	}
	p, err := peer.Self(three(), "", nil, "node-c")
	require.NoError(t, err)
	require.Equal(t, "node-c", p.Name)
}

func TestNoneOrTwoIsAnErrorThatListsWhatWasTried(t *testing.T) {
	t.Parallel()
	twice := append(three(), at("node-d", "192.0.2.12", "10.4.0.0/24"), at("NODE-C", "192.0.2.14", "10.5.0.0/24"), at("node-a", "192.0.2.15", "10.6.0.0/24"))
	const which = "which peer is this machine? "
	const named = `the peers "node-a", "node-b", "node-c"`
	for _, c := range []struct {
		peers               []peer.Peer
		stated, local, host string
		want                string
	}{
		{three(), "", "127.0.0.1 10.0.0.1", "other", which + `Of ` + named + `: key "node" is not stated; no endpoint is one of the local addresses (127.0.0.1, 10.0.0.1); none is named as this host, "other"; state "node"`},
		{three(), "", "", "other", which + `Of ` + named + `: key "node" is not stated; no endpoint is one of the local addresses (none); none is named as this host, "other"; state "node"`},
		{three(), "", "10.0.0.1", "", which + `Of ` + named + `: key "node" is not stated; no endpoint is one of the local addresses (10.0.0.1); state "node"`},
		{nil, "", "10.0.0.1", "a", which + `Of the peers, of which there are none: key "node" is not stated; no endpoint is one of the local addresses (10.0.0.1); none is named as this host, "a"; state "node"`},
		{three(), "node-d", "192.0.2.11", "node-a", which + `Key "node" says "node-d", which is not among ` + named + `; did you mean "node-a"?`},
		{three(), "NODE-A", "", "", which + `Key "node" says "NODE-A", which is not among ` + named + `; did you mean "node-a"?`},
		{three(), "elsewhere", "", "", which + `Key "node" says "elsewhere", which is not among ` + named + `; state the name of a peer, or leave the key out`},
		{nil, "a", "", "", which + `Key "node" says "a", which is not among the peers, of which there are none; state the name of a peer, or leave the key out`},
		{twice, "node-a", "", "", which + `2 of them, "node-a", "node-a", are named "node-a"; state "node", or correct the peers`},
		{twice, "", "192.0.2.12", "node-b", which + `2 of them, "node-b", "node-d", have an endpoint that is a local address; state "node", or correct the peers`},
		{three(), "", "192.0.2.11 192.0.2.13", "node-b", which + `2 of them, "node-a", "node-c", have an endpoint that is a local address; state "node", or correct the peers`},
		{twice, "", "", "node-c", which + `2 of them, "node-c", "NODE-C", bear the host name "node-c"; state "node", or correct the peers`},
	} {
		p, err := peer.Self(c.peers, c.stated, local(c.local), c.host)
		require.EqualError(t, err, c.want)
		require.Zero(t, p)
	}
	_, err := peer.Self(three(), "", nil, "")
	require.EqualError(t, err, which+`Of `+named+`: key "node" is not stated; neither local addresses nor a host name are known; state "node"`)
	_, err = peer.Self(nodes(1000).Peers, "", nil, "x")
	require.ErrorContains(t, err, `"node-00007" and 992 more: key "node"`)
}

func TestAPeerWithoutEndpointIsNobodysAddress(t *testing.T) {
	t.Parallel()
	_, err := peer.Self([]peer.Peer{{Name: "a"}}, "", func(yield func(netip.Addr) bool) { yield(netip.Addr{}) }, "")
	require.ErrorContains(t, err, "which peer is this machine?")
}

func TestLocalAddressesAreNotAskedForInVain(t *testing.T) {
	t.Parallel()
	p, err := peer.Self(three(), "node-a", func(func(netip.Addr) bool) { panic("asked") }, "")
	require.NoError(t, err)
	require.Equal(t, "node-a", p.Name)
}

func TestTheOthersAreAllButOne(t *testing.T) {
	t.Parallel()
	list := three()
	require.Equal(t, "node-a node-c", names(peer.Others(list, "node-b")))
	require.Equal(t, "node-a node-b node-c", names(peer.Others(list, "x")))
	require.Equal(t, "node-a node-b node-c", names(list), "left as it was")
	require.Empty(t, peer.Others(nil, "x"))
}

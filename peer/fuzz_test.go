package peer_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/peer"
)

func FuzzParse(f *testing.F) {
	problems, err := os.ReadFile("testdata/problems.json")
	require.NoError(f, err)
	for line := range strings.Lines(string(problems)) { // one by one: small inputs are soon varied
		if e, ok := strings.CutPrefix(line, "    {"); ok {
			f.Add([]byte(`{"peers":[{` + strings.TrimRight(e, ",\n") + `]}`))
		}
	}
	f.Add([]byte(twoPeers))
	f.Add([]byte(`{"peers":[{"name":"a","endpoint":"192.0.2.1","pods":"10.0.0.0/8","mac":{"ipv4":"02:00:00:00:00:01"},"port":1,"vni":1,"encap":"x"}]}`))
	f.Add([]byte(`{"peers":[{"name":"a","pods":"::/128","publicKey":"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="}],"network":"x"}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		n, problems, err := peer.Parse(doc)
		if err != nil {
			require.Zero(t, n)
			require.NotEmpty(t, err.Error())
			return
		}
		require.NotNil(t, n.Peers)
		require.NoError(t, n.Validate(), "what is returned is good")
		for _, p := range problems {
			require.NotEmpty(t, p.Key)
			require.NotEmpty(t, p.Reason)
			require.NotEmpty(t, p.Remedy)
		}
		again, problems, err := peer.Parse(peer.Format(n))
		require.NoError(t, err)
		require.Empty(t, problems)
		require.Equal(t, n.Prefixes, again.Prefixes)
		require.True(t, slices.EqualFunc(n.Peers, again.Peers, peer.Peer.Equal))
	})
}

func FuzzAPeerMoreCostsNobodyItsPlace(f *testing.F) {
	f.Add([]byte(`{"name":"a","endpoint":"192.0.2.11","pods":"10.244.0.0/16"}`))
	f.Add([]byte(`{"name":"c","endpoint":"10.244.1.1","pods":"fd00::/8","port":1}`))
	f.Add([]byte(`{"name":"c","endpoint":["192.0.2.13","2001:db8::12"],"pods":["10.244.3.0/24"],"mac":"x"}`))
	f.Fuzz(func(t *testing.T, last []byte) {
		var p peer.Peer
		if p.UnmarshalJSON(last) != nil {
			return
		}
		want := parse(t, twoPeers)
		n := peer.Network{Prefixes: want.Prefixes, Peers: append(slices.Clone(want.Peers), p)}
		good, problems, err := n.Sift()
		require.NoError(t, err)
		require.Equal(t, len(problems) == 0, len(good.Peers) == 3)
		require.True(t, slices.EqualFunc(want.Peers, good.Peers[:2], peer.Peer.Equal))
	})
}

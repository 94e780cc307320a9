package overlay

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/base/lazyjson"
	"github.com/cniblocks/cniblocks/peer"
)

// FuzzAConfigurationIsReadOrRefused: what ADD takes has an encapsulation and a delegate whose configuration is one, and
// DEL and GC take it too.
func FuzzAConfigurationIsReadOrRefused(f *testing.F) {
	for _, s := range []string{
		`{"type":"overlay","encap":"vxlan","delegate":{"type":"bridge"}}`, `{"type":"host-gw","peers":[],"delegate":{"type":"bridge","ipam":{}}}`,
		`{"type":"overlay","encap":"wireguard","port":1,"persistentKeepalive":25,"delegate":{"type":"host-gw","delegate":{"type":"bridge"}}}`,
		`{"type":"overlay","encap":"gre","l2":true,"delegate":{"type":"bridge","bridge":"br0","portIsolation":true},"ipMasq":true,"ipMasqExcept":["10.0.0.0/8"]}`,
		`{"type":"overlay","encap":"vxlna","delegate":null}`, `{"type":"overlay","encap":"geneve","vni":16777216,"delegate":{"type":7}}`, `{"type":"overlay","mtu":-1}`,
	} {
		f.Add([]byte(s), []byte(`{"network":"10.244.0.0/16","peers":[{"name":"a","endpoint":"192.0.2.11","pods":["10.244.1.0/24","fd00::/64"]}]}`))
	}
	f.Fuzz(func(t *testing.T, keys, peers []byte) {
		var c lazyjson.Object
		if json.Unmarshal(keys, &c) != nil || c == nil {
			return
		}
		c["cniVersion"], c["name"] = json.RawMessage(`"1.1.0"`), json.RawMessage(`"net"`)
		c["cni.dev/valid-attachments"] = json.RawMessage("[]")
		whole, err := json.Marshal(c)
		require.NoError(t, err)
		var v view
		if n, _, err := peer.Parse(peers); err == nil && len(n.Peers) > 0 {
			v.self, v.prefixes = n.Peers[0], n.Prefixes
		}
		for _, verb := range []cni.Verb{cni.ADD, cni.CHECK, cni.STATUS, cni.DEL, cni.GC} {
			r, err := (&cni.Request{ContainerID: "c1", IfName: "eth0"}).With(verb, whole)
			if err != nil {
				return
			}
			got, err := load(r)
			if err != nil {
				require.NotEqual(t, cni.ErrInternal, cni.CodeOf(err), err)
				if verb == cni.ADD {
					return
				}
				t.Fatalf("ADD takes what %s refuses: %v", verb, err)
			}
			_, err = got.encapsulation()
			require.NoError(t, err)
			conf, err := got.delegateConf(r, &v, 1400)
			if err != nil {
				require.NotEqual(t, cni.ErrInternal, cni.CodeOf(err), err)
				continue
			}
			to, err := r.With(verb, conf)
			require.NoError(t, err)
			require.Equal(t, "net", to.Network)
			require.Equal(t, got.delegateType(), to.Type)
		}
	})
}

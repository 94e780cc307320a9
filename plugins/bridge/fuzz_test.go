package bridge

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/cni"
)

// FuzzAConfigurationIsReadOrRefused: what ADD takes is within its bounds, what ADD refuses DEL and GC still take, as long
// as it is an object whose keys for them are of their kinds.
func FuzzAConfigurationIsReadOrRefused(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"bridge":"br0","isDefaultGateway":true,"ipMasq":"ipv4","ipam":{"type":"host-local","subnet":"10.1.0.0/24"}}`,
		`{"vlan":5,"vlanTrunk":[{"id":7},{"minID":9,"maxID":12}],"macspoofchk":true}`, `{"mtu":1,"hairpinMode":true,"promiscMode":true}`,
		`{"ipam":{"type":"host-local","ranges":[[{"subnet":"fd00::/64"}],[]]},"runtimeConfig":{"mac":"0a:58:0a:f4:01:02"}}`,
		`{"args":{"cni":{"mac":"x"}}}`, `{"ipMasqExcept":["10.0.0.1/8"],"ipMasqElsewhere":true}`, `{"vlan":-1}`, `{"bridge":"a/b"}`, `{"ipam":7}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, keys []byte) {
		var c map[string]json.RawMessage
		if json.Unmarshal(keys, &c) != nil || c == nil {
			return
		}
		c["cniVersion"], c["name"] = json.RawMessage(`"1.1.0"`), json.RawMessage(`"net"`)
		c["cni.dev/valid-attachments"] = json.RawMessage("[]")
		whole, err := json.Marshal(c)
		require.NoError(t, err)
		ask := func(verb cni.Verb) (*job, error) {
			r, err := (&cni.Request{ContainerID: "c1", IfName: "eth0"}).With(verb, whole)
			if err != nil {
				return nil, err
			}
			return read(r)
		}
		got, err := ask(cni.ADD)
		if err != nil {
			require.Contains(t, []cni.Code{cni.ErrConfig, cni.ErrDecode, cni.ErrVersion}, cni.CodeOf(err), err)
			for _, verb := range []cni.Verb{cni.DEL, cni.GC} {
				if least, err := ask(verb); err == nil {
					require.True(t, least.Partial || verb == cni.DEL)
				}
			}
			return
		}
		require.True(t, cni.ValidIfName(got.Bridge))
		require.True(t, got.MTU == 0 || got.MTU >= 68 && got.MTU <= 65535)
		require.LessOrEqual(t, int(got.port.VLAN), bridge.MaxVLAN)
		require.LessOrEqual(t, len(got.port.Trunk), bridge.MaxVLAN)
		for _, p := range got.Pools {
			require.NotEmpty(t, p)
		}
		for _, verb := range []cni.Verb{cni.DEL, cni.GC, cni.CHECK, cni.STATUS} {
			again, err := ask(verb)
			require.NoError(t, err)
			require.Equal(t, got.conf, again.conf)
			require.Equal(t, got.Pools, again.Pools)
		}
	})
}

package flannel

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/base/lazyjson"
	"github.com/cniblocks/cniblocks/peer/flannel"
)

func FuzzWhateverTheNetconfTheDelegateGetsAnObjectWithTypeAndName(f *testing.F) {
	for _, conf := range []string{
		`{"cniVersion":"1.1.0","name":"cbr0","type":"flannel"}`,
		`{"name":"cbr0","type":"flannel","delegate":{"type":"ipvlan","mtu":1400,"ipMasq":true},"ipam":{"type":"x","routes":[{"dst":"10.0.0.0/8"}]}}`,
		`{"cniVersion":"0.3.1","name":"cbr0","type":"flannel","delegate":{"name":1,"ipam":2,"type":"flannel"},"prevResult":{},"cni.dev/attachments":[]}`,
		`{"name":"cbr0","type":"flannel","delegate":"x","ipam":[],"runtimeConfig":{"mac":""},"args":null,"dns":{}}`,
		`{"name":"cbr0","type":"flannel","delegate":{"type":null},"ipam":{"type":3,"routes":7}}`,
	} {
		f.Add([]byte(conf))
	}
	env := flannel.SubnetEnv{Networks: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
		Subnets: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}, MTU: 1450}
	f.Fuzz(func(t *testing.T, conf []byte) {
		for _, verb := range []cni.Verb{cni.ADD, cni.DEL} {
			r, err := (&cni.Request{}).With(verb, conf)
			if err != nil {
				return
			}
			c, err := load(r)
			if verb == cni.DEL {
				require.NoError(t, err, "what was added must go")
			}
			if err != nil {
				continue
			}
			for _, e := range []*flannel.SubnetEnv{&env, nil} {
				d, err := c.render(r, e)
				require.NoError(t, err)
				b, err := handDown(r, d)
				require.NoError(t, err)
				var got lazyjson.Object
				require.NoError(t, json.Unmarshal(b, &got))
				require.Equal(t, r.Network, got.Text("name"))
				require.NotEmpty(t, got.Text("type"))
				require.NotEqual(t, "flannel", got.Text("type"))
				kept, err := lasting(b)
				require.NoError(t, err)
				var rest lazyjson.Object
				require.NoError(t, json.Unmarshal(kept, &rest))
				require.NotContains(t, rest, "prevResult")
			}
		}
	})
}

func FuzzARecordIsReadOrNone(f *testing.F) {
	f.Add([]byte(`{"type":"bridge","name":"cbr0"}`))
	f.Add([]byte(`{"type":"bridge","name":"cbr`))
	f.Add([]byte(`{"type":7,"name":{}}`))
	f.Add([]byte(`[]`))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := record{t.TempDir(), "cbr0", cni.Attachment{ContainerID: "a", IfName: "eth0"}}
		require.NoError(t, os.WriteFile(filepath.Join(r.dataDir, "a"), b, 0o600))
		d, ok := r.read()
		require.Equal(t, ok, d.Text("name") == "cbr0" && d.Text("type") != "")
		_, _, err := records(r.dataDir, "cbr0", nil)
		require.NoError(t, err)
		require.NoError(t, r.remove())
		_, known := parse(r.theirs())
		require.False(t, ok && known, "what was read was removed")
	})
}

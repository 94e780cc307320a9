//go:build linux

package runtimes_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/reference"
	"github.com/cniblocks/cniblocks/test/internal/node"
)

func TestCnitoolAddsChecksCollectsAndDeletes(t *testing.T) {
	t.Parallel()
	for name, chained := range map[string][]object{"alone": nil, "before tuning, portmap and firewall": chain()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := ours(t)
			ref, err := reference.Build("cnitool")
			require.NoError(t, err)
			if chained != nil {
				dir = with(t, "tuning", "portmap", "firewall")
			}
			n := node.New(t)
			list := conflist("pods", chained...)
			n.Write(t, "/run/net.d/10-pods.conflist", list)
			env := []string{"CNI_PATH=" + dir, "NETCONFPATH=/run/net.d"}
			a, ans := n.Pod(t, "a")
			b, bns := n.Pod(t, "b")
			tool := func(verb, ns string) string {
				t.Helper()
				out, err := n.Run(env, ref+"/cnitool", verb, "pods", ns)
				require.NoError(t, err)
				return out
			}
			tool("add", a)
			tool("del", a) // the network's SNAT rule stays
			clean := n.Trace(t)

			for _, path := range []string{a, b} {
				var res struct{ CNIVersion string }
				out := tool("add", path)
				require.NoError(t, json.Unmarshal([]byte(out), &res), out)
				require.Equal(t, "1.1.0", res.CNIVersion)
				parsed, err := cni.ParseResult([]byte(out))
				require.NoError(t, err)
				require.Len(t, parsed.IPs, 2)
				for _, ip := range parsed.IPs {
					reach(t, ans, ip.Gateway)
					reach(t, n.Net, ip.Address.Addr())
					reach(t, ans, ip.Address.Addr())
				}
			}
			tool("check", a)
			tool("check", b)
			if chained == nil { // the reference's plugins do not know STATUS
				tool("status", a)
			}
			tool("del", b)
			tool("del", b)
			require.NotContains(t, nstest.Dump(bns), "eth0")
			// libcni deletes what it has in its cache; of what is valid cnitool says nothing to the plugins.
			_, err = n.Run(env, ref+"/cnitool", "gc", "pods", a)
			require.ErrorContains(t, err, `key "cni.dev/valid-attachments" is missing`)
			require.Equal(t, clean, n.Trace(t))
		})
	}
}

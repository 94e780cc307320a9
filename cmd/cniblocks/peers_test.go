//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/machine"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/inventory"
)

func TestShowListsPeersAndFromWhereATunnelSendsWhateverTheEncapsulation(t *testing.T) {
	t.Parallel()
	for name, use := range uses {
		if !strings.Contains(use.conf, `"peers"`) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nstest.Need(t, use.needs...)
			m := machine.Linked(t, linkedIn)
			p, err := m.Pod("one")
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, p.Close()) })
			_, err = m.Do(t.Context(), machine.Call{Verb: cni.ADD, ID: "one", NetNS: p.Path, Conf: strings.ReplaceAll(use.conf, "DIR", m.Dir)})
			require.NoError(t, err)
			status, out, errs := call(t, "show", "-o", "json", "--netns", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), m.NS.Fd()),
				"--data-dir", m.Dir, "--state-dir", filepath.Join(m.Dir, "run"))
			require.Zero(t, status, errs)
			var n inventory.Node
			require.NoError(t, json.Unmarshal([]byte(out), &n))

			require.Len(t, n.Uplinks, 1, "without a default route too")
			require.Equal(t, "uplink", n.Uplinks[0].Name)
			ends, pods := map[string]bool{}, map[string]bool{}
			for _, p := range n.Peers {
				ends[p.Endpoint.String()] = true
				for _, r := range p.Pods {
					pods[r.String()] = true
				}
			}
			require.True(t, ends["192.0.2.12"], out)
			delete(ends, "192.0.2.12")
			delete(ends, "2001:db8::12")
			require.Empty(t, ends)
			if !strings.Contains(name, "layer 2") {
				require.Equal(t, map[string]bool{"10.244.2.0/24": true, "fd00:10:244:2::/64": true}, pods)
			}
			if name == "host-gw" || name == "wireguard" { // no tunnel; and one whose address the kernel chooses with each packet
				return
			}
			for _, d := range n.Devices {
				if d.Owner == inventory.Ours && d.Kind != "ip6gre" && d.Kind != "ip6tnl" {
					require.NotEmpty(t, d.Local, "%+v", d)
					require.Equal(t, []string{"uplink"}, d.Over, "%+v", d)
				}
			}
		})
	}
}

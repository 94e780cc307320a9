//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

func TestOverlayUpThatLeavesSomethingOutFailsWithOneMessage(t *testing.T) {
	t.Parallel()
	ns, dir := nstest.New(t), t.TempDir()
	nstest.Link(t, nstest.End{NS: ns, Name: "eth0", Addrs: []string{"192.0.2.11/24"}}, nstest.End{NS: nstest.New(t), Name: "far"})
	up := func(plugin, second string) (status int, out, errs string) {
		peers, conf := filepath.Join(dir, "peers.json"), filepath.Join(dir, "conf")
		require.NoError(t, os.WriteFile(peers, []byte(`{"network": "10.244.0.0/16", "peers": [
			{"name": "a", "endpoint": "192.0.2.11", "pods": "10.244.1.0/24"}, {"name": "b", "endpoint": "192.0.2.12", "pods": "`+second+`"}]}`), 0o600))
		require.NoError(t, os.WriteFile(conf, []byte(`{"cniVersion": "1.0.0", "name": "pods", `+plugin+`, "stateDir": "`+dir+`/run", "peersFile": "`+peers+`", "delegate": {"type": "bridge"}}`), 0o600))
		return call(t, "overlay", "up", "--conf", conf, "--netns", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd()))
	}
	for range 2 {
		status, out, errs := up(`"type": "host-gw"`, "10.244.2.1/24")
		require.Equal(t, failed, status)
		require.Equal(t, "pods: host-gw, this machine is \"a\", MTU for pods 1500\n", out)
		require.Regexp(t, `^cniblocks overlay up: network "pods": left out: peer "b": pods 10.244.2.1/24 .*\n$`, errs)
		require.Equal(t, 1, strings.Count(errs, "\n"))
	}
	status, out, errs := up(`"type": "host-gw"`, "10.244.2.0/24")
	require.Zero(t, status, errs)
	require.Contains(t, out, "MTU for pods 1500")
	require.Empty(t, errs)

	for encap, f := range map[string]nstest.Feature{"gre": nstest.GRE, "ipip": nstest.IPIP, "geneve": nstest.Geneve} {
		if nstest.Has(f) {
			continue
		}
		status, out, errs := up(`"type": "overlay", "encap": "`+encap+`"`, "10.244.2.0/24")
		require.Equal(t, failed, status)
		require.Empty(t, out)
		require.Regexp(t, "^cniblocks overlay up: .*this kernel has no links of kind .*\n$", errs)
		require.Equal(t, 1, strings.Count(errs, "\n"))
	}
}

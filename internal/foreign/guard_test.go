//go:build linux

package foreign

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/reference"
)

func TestTheReferencesGuardIsRecognisedAndRemovedWithoutATrace(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.Bridge, nstest.NFTBridge)
	bin, err := reference.Build("bridge", "host-local")
	require.NoError(t, err)
	node := nstest.New(t)
	dir := t.TempDir()
	type port struct {
		name string
		mac  inet.MAC
	}
	add := func(container string) port {
		_, pod := nstest.Named(t)
		conf := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"pods","type":"bridge","bridge":"cni0","macspoofchk":true,
			"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.1.0.0/24"}]]}}`, dir)
		require.NoError(t, node.Do(func() error {
			cmd := exec.Command(filepath.Join(bin, "bridge"))
			cmd.Stdin = strings.NewReader(conf)
			cmd.Env = []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=" + container, "CNI_IFNAME=eth0", "CNI_PATH=" + bin,
				"CNI_NETNS=" + pod.Path(), "PATH=" + os.Getenv("PATH")}
			out, err := cmd.CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		}))
		eth0, err := nstest.Netlink(t, pod).LinkByName("eth0")
		require.NoError(t, err)
		host, err := nstest.Netlink(t, node).LinkByIndex(eth0.Attrs().ParentIndex)
		require.NoError(t, err)
		return port{host.Attrs().Name, inet.MAC(eth0.Attrs().HardwareAddr)}
	}
	one, two := add("c1"), add("c2")
	has := func(container string, p port) bool {
		ok, err := HasGuard(t.Context(), node, Attachment{"pods", container, "eth0"}, p.name, p.mac)
		require.NoError(t, err)
		return ok
	}
	require.True(t, has("c1", one))
	require.True(t, has("c2", two))
	require.False(t, has("c2", one))
	require.False(t, has("c1", port{one.name, two.mac}))

	require.NoError(t, RemoveGuard(t.Context(), node, Attachment{"pods", "c1", "eth0"}))
	require.NoError(t, RemoveGuard(t.Context(), node, Attachment{"pods", "c1", "eth0"}))
	require.False(t, has("c1", one))
	require.True(t, has("c2", two))
	require.NotContains(t, nstest.Ruleset(t, node), "-c1-")
	require.NoError(t, RemoveGuard(t.Context(), node, Attachment{"pods", "c2", "eth0"}))
	require.Empty(t, nstest.Ruleset(t, node))
}

func TestTheReferencesTableStaysWhereOthersUseIt(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.NFTBridge)
	ns := nstest.New(t)
	nstest.Run(t, ns, "nft", `add table bridge nat; add chain bridge nat PREROUTING { type filter hook prerouting priority -300; };
		add chain bridge nat OUTPUT { type filter hook output priority 100; }; add chain bridge nat cni-br-iface-c1-eth0`)
	require.NoError(t, RemoveGuard(t.Context(), ns, Attachment{"pods", "c1", "eth0"}))
	require.Contains(t, nstest.Ruleset(t, ns), "chain OUTPUT")
	require.NotContains(t, nstest.Ruleset(t, ns), "cni-br")
}

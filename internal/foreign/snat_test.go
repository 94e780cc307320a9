//go:build linux

package foreign

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/reference"
	"github.com/cniblocks/cniblocks/netns"
)

// referencePod runs the reference's bridge plugin in the node's namespace for a container.
type referencePod struct {
	node, pod *netns.NS
	backend   string
	path      string // PATH of the plugin, whose first iptables decides
	dir       string
}

func (r referencePod) call(t *testing.T, command string, a Attachment) {
	t.Helper()
	bin, err := reference.Build("bridge", "host-local")
	require.NoError(t, err)
	conf := fmt.Sprintf(`{"cniVersion":"1.0.0","name":%q,"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":true,"ipMasqBackend":%q,
		"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.1.0.0/24"}],[{"subnet":"fd00:1::/64"}]]}}`, a.Network, r.backend, r.dir)
	require.NoError(t, r.node.Do(func() error {
		cmd := exec.Command(filepath.Join(bin, "bridge"))
		cmd.Stdin = strings.NewReader(conf)
		cmd.Env = []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + a.ContainerID, "CNI_IFNAME=" + a.IfName, "CNI_PATH=" + bin,
			"CNI_NETNS=" + r.pod.Path(), "PATH=" + r.path}
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}))
}

// legacyPath is a PATH in which iptables is iptables-legacy.
func legacyPath(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"iptables", "ip6tables"} {
		program, err := exec.LookPath(name + "-legacy")
		require.NoError(t, err)
		require.NoError(t, os.Symlink(program, filepath.Join(dir, name)))
	}
	return dir + ":" + os.Getenv("PATH")
}

func TestTheReferencesSNATOfAPodIsRecognisedAndRemovedWithoutATrace(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.IPTables, nstest.IP6Tables)
	for _, kind := range []string{"nftables", "iptables-nft", "iptables-legacy"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			_, pod := nstest.Named(t)
			node := nstest.New(t)
			r := referencePod{node: node, pod: pod, backend: "nftables", path: os.Getenv("PATH"), dir: t.TempDir()}
			if strings.HasPrefix(kind, "iptables") {
				r.backend = "iptables"
			}
			if kind == "iptables-legacy" {
				r.path = legacyPath(t)
			}
			nstest.TouchTables(t, node)
			before := nstest.Firewall(t, node)
			one, two := Attachment{"pods", "c1", "eth0"}, Attachment{"pods", "c2", "eth1"}
			r.call(t, "ADD", one)
			r.call(t, "ADD", two)

			for _, a := range []Attachment{one, two} {
				v4, v6, err := HasSNAT(t.Context(), node, a)
				require.NoError(t, err)
				require.Equal(t, []bool{true, true}, []bool{v4, v6})
			}
			v4, v6, err := HasSNAT(t.Context(), node, Attachment{"pods", "c3", "eth0"})
			require.NoError(t, err)
			require.Equal(t, []bool{false, false}, []bool{v4, v6})

			require.NoError(t, RemoveSNAT(t.Context(), node, one))
			require.NoError(t, RemoveSNAT(t.Context(), node, one))
			v4, v6, err = HasSNAT(t.Context(), node, one)
			require.NoError(t, err)
			require.Equal(t, []bool{false, false}, []bool{v4, v6})
			v4, v6, err = HasSNAT(t.Context(), node, two)
			require.NoError(t, err)
			require.Equal(t, []bool{true, true}, []bool{v4, v6})

			require.NoError(t, RemoveSNAT(t.Context(), node, two))
			require.Equal(t, before, nstest.Firewall(t, node))
		})
	}
}

func TestASecondInterfaceKeepsTheReferencesSNATWhenAddressesAreGiven(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.IPTables, nstest.IP6Tables)
	for _, kind := range []string{"nft", "legacy"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			_, pod := nstest.Named(t)
			node := nstest.New(t)
			r := referencePod{node: node, pod: pod, backend: "iptables", path: os.Getenv("PATH"), dir: t.TempDir()}
			if kind == "legacy" {
				r.path = legacyPath(t)
			}
			nstest.TouchTables(t, node)
			before := nstest.Firewall(t, node)
			one, two := Attachment{"pods", "c1", "eth0"}, Attachment{"pods", "c1", "eth1"}
			r.call(t, "ADD", one)
			r.call(t, "ADD", two)

			require.NoError(t, RemoveSNAT(t.Context(), node, one, netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("fd00:1::2")))
			v4, v6, err := HasSNAT(t.Context(), node, two)
			require.NoError(t, err)
			require.Equal(t, []bool{true, true}, []bool{v4, v6})
			require.NotContains(t, nstest.Firewall(t, node), "10.1.0.2/32")
			require.NoError(t, RemoveSNAT(t.Context(), node, two, netip.MustParseAddr("10.1.0.3"), netip.MustParseAddr("fd00:1::3")))
			require.Equal(t, before, nstest.Firewall(t, node))
		})
	}
}

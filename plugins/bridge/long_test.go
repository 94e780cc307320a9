//go:build linux

package bridge_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/reference"
	"github.com/cniblocks/cniblocks/inventory"
)

const longest = 255

func longID(last string) string { return strings.Repeat("c", longest-1) + last }

func (w *world) longConf(keys map[string]any) (network, conf string) {
	network = strings.Repeat("n", longest)
	return network, with(w.conf(keys), "name", network)
}

func TestANetworkAndAContainerOf255BytesAreAddedCheckedShownAndDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	network, conf := w.longConf(map[string]any{"ipMasq": true, "macspoofchk": true, "isDefaultGateway": true})
	other := with(w.conf(map[string]any{"ipMasq": true, "macspoofchk": true, "isDefaultGateway": true, "bridge": "br1",
		"ipam": map[string]any{"type": "host-local", "dataDir": w.dir, "subnet": "10.1.3.0/24"}}), "name", network[1:]+"o")
	a, b, foreign := w.pod(longID("a")), w.pod(longID("b")), w.pod(longID("a"))
	a.name, b.name = "fifteen-letters", "fifteen-letters"
	for p, conf := range map[*attachment]string{a: conf, b: conf, foreign: other} {
		p.add(conf)
		require.Zero(t, p.check(conf).status)
	}
	reach(t, a.pod, outside4)

	show := func(o inventory.Options) *inventory.Node {
		o.NS, o.ConfDir, o.StateDir = w.node, t.TempDir(), t.TempDir()
		n, err := inventory.Read(t.Context(), o)
		require.NoError(t, err)
		require.Empty(t, n.Unread)
		return n
	}
	n := show(inventory.Options{DataDirs: []string{w.dir}})
	require.Equal(t, []string{network, network[1:] + "o"}, n.OurNetworks())
	own := n.Only(network)
	require.Len(t, own.Attachments, 2)
	require.Len(t, own.Guards, 2)
	require.NotEmpty(t, own.SNAT)
	for _, p := range own.Attachments {
		require.Contains(t, []string{a.id, b.id}, p.ContainerID)
		require.NotEmpty(t, p.Leased)
	}
	asked := show(inventory.Options{DataDirs: []string{t.TempDir()}, Network: network})
	require.Len(t, asked.Only(network).Attachments, 2, "a name that is asked for is known without a directory")

	gc := with(conf, "cni.dev/valid-attachments", []cni.Attachment{{ContainerID: a.id, IfName: a.name}})
	require.Zero(t, w.call(cni.GC, "", "", "", "", gc).status)
	left := show(inventory.Options{DataDirs: []string{w.dir}})
	require.Len(t, left.Only(network).Attachments, 1)
	require.Len(t, left.Only(network).Guards, 1)
	require.Len(t, left.Only(network[1:]+"o").Attachments, 1, "another network of the same beginning keeps its own")
	require.Len(t, left.Only(network[1:]+"o").Guards, 1)
	require.Zero(t, a.check(conf).status)
	require.Zero(t, foreign.check(other).status)

	a.del(conf)
	foreign.del(other)
	last := show(inventory.Options{DataDirs: []string{w.dir}})
	require.Empty(t, last.Only(network).Attachments)
	require.Empty(t, last.Only(network[1:]+"o").Attachments)
	require.Empty(t, last.Leases)
}

func TestAPodOf255BytesThatTheReferenceAddedIsDeletedByOurs(t *testing.T) {
	t.Parallel()
	bin, err := reference.Build("bridge", "host-local")
	require.NoError(t, err)
	w := newWorld(t)
	network, conf := w.longConf(map[string]any{"isGateway": true})
	p := w.pod(longID("a"))
	cmd := exec.Command(filepath.Join(bin, "bridge"))
	cmd.Stdin = strings.NewReader(conf)
	cmd.Env = append(os.Environ(), "CNI_COMMAND=ADD", "CNI_CONTAINERID="+p.id, "CNI_IFNAME=eth0", "CNI_PATH="+bin, "CNI_NETNS="+path(p.pod))
	var out []byte
	require.NoError(t, w.node.Do(func() (err error) {
		if out, err = cmd.Output(); err != nil {
			err = fmt.Errorf("the reference's ADD: %w: %s", err, out)
		}
		return err
	}))
	var res struct {
		IPs []struct{ Address netip.Prefix }
	}
	require.NoError(t, json.Unmarshal(out, &res))
	lease := filepath.Join(w.dir, network, res.IPs[0].Address.Addr().String())
	require.FileExists(t, lease)
	p.prev = out
	require.Zero(t, p.check(conf).status)
	p.del(with(conf, "prevResult", json.RawMessage(out)))
	require.NoFileExists(t, lease)
	_, err = nstest.Netlink(t, p.pod).LinkByName("eth0")
	require.Error(t, err)
}

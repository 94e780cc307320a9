package flannel_test

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/reference"
	"github.com/cniblocks/cniblocks/netns"
)

// theirs calls flannel's own plugin, which knows CNI up to 0.4.0.
func (p *pod) theirs(verb cni.Verb, bin, conf string) []byte {
	p.w.t.Helper()
	cmd := exec.Command(filepath.Join(bin, "flannel"))
	cmd.Stdin = strings.NewReader(conf)
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+string(verb), "CNI_CONTAINERID="+p.id, "CNI_IFNAME="+p.ifName, "CNI_PATH="+bin,
		fmt.Sprintf("CNI_NETNS=/proc/%d/fd/%d", os.Getpid(), p.ns.Fd()))
	var out []byte
	require.NoError(p.w.t, p.w.node.Do(func() (err error) {
		if out, err = cmd.Output(); err != nil {
			err = fmt.Errorf("flannel's own %s: %w: %s", verb, err, out)
		}
		return err
	}))
	return out
}

func references(t *testing.T) string {
	t.Helper()
	bin, err := reference.Build("flannel", "bridge", "host-local")
	require.NoError(t, err)
	return bin
}

func TestWhatFlannelsOwnPluginAddedIsCheckedAndDeletedByOurs(t *testing.T) {
	t.Parallel()
	bin := references(t)
	for name, delegates := range map[string]string{"the reference's delegates": bin, "our delegates": "/nowhere"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, onlyIPv4)
			w.path = delegates
			conf := w.conf(map[string]any{"cniVersion": "0.4.0"})
			gone, err := netns.New()
			require.NoError(t, err)
			p, second, forgotten := w.pod("a"), w.pod("b"), &pod{w: w, id: "c", ifName: "eth0", ns: gone}
			for _, p := range []*pod{p, second, forgotten} {
				p.prev = p.theirs(cni.ADD, bin, conf)
				reach(t, p.ns, netip.MustParseAddr("10.244.1.1"))
			}
			require.Equal(t, []string{"a", "b", "c"}, w.records())
			p.check(conf)
			w.env("")
			p.must(cni.DEL, with(conf, "prevResult", p.prev))
			second.check(conf)
			w.env(onlyIPv4)
			_ = os.RemoveAll(w.file("flannel/b"))
			second.must(cni.DEL, with(conf, "prevResult", second.prev))
			require.NoError(t, gone.Close()) // its interface goes with it, its lease does not
			require.Zero(t, w.gc(with(conf, "cniVersion", "1.1.0")).Status)
			require.Empty(t, w.leases())
			require.Empty(t, w.records())
		})
	}
}

func TestFlannelsOwnPluginDeletesWhatOursAdded(t *testing.T) {
	t.Parallel()
	bin := references(t)
	for name, delegates := range map[string]string{"by the reference's delegates": bin, "by ours": "/nowhere"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, onlyIPv4)
			w.path = delegates
			conf := w.conf(map[string]any{"cniVersion": "0.4.0"})
			p := w.pod("a")
			p.add(conf)
			p.theirs(cni.DEL, bin, conf)
			require.Empty(t, w.leases())
			require.Equal(t, []string{".attachments-cbr0/a:eth0"}, w.records(), "of no use to it, and in nobody's way")
			require.Zero(t, w.gc(with(conf, "cniVersion", "1.1.0")).Status)
			w.empty()
		})
	}
}

func TestAPodThatOursAddsAndFlannelsOwnPluginDeletesAgainAndAgainLeavesNothing(t *testing.T) {
	t.Parallel()
	bin := references(t)
	w := newWorld(t, onlyIPv4)
	w.path = bin
	conf := w.conf(map[string]any{"cniVersion": "0.4.0"})
	p, second := w.pod("a"), w.pod("a")
	second.ifName, second.ns = "net1", p.ns
	for range 3 {
		p.add(conf)
		reach(t, p.ns, netip.MustParseAddr("10.244.1.1"))
		p.theirs(cni.DEL, bin, conf)
		require.Empty(t, w.leases())
		require.Equal(t, []string{".attachments-cbr0/a:eth0"}, w.records())
	}
	p.add(conf)
	second.add(conf) // of which flannel's own plugin knows nothing
	p.theirs(cni.DEL, bin, conf)
	require.Len(t, w.leases(), 1)
	second.check(conf)
	p.add(conf)
	require.Contains(t, w.records(), "a")
	second.must(cni.DEL, conf)
	p.check(conf)
	require.Contains(t, w.records(), "a", "it is the other interface's")
	p.theirs(cni.DEL, bin, conf)
	require.Zero(t, w.gc(with(conf, "cniVersion", "1.1.0")).Status)
	w.empty()
}

func TestTheReferencesDelegatesAreCalledAsPrograms(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dualStack)
	w.path = references(t)
	conf := w.conf(map[string]any{"cniVersion": "1.0.0"})
	p, second := w.pod("a"), w.pod("a")
	second.ifName, second.ns = "net1", p.ns
	res := p.add(conf)
	require.Equal(t, "10.244.1.2/24", res.IPs[0].Address.String())
	for _, ip := range res.IPs {
		reach(t, p.ns, ip.Gateway)
	}
	second.add(conf)
	p.check(conf)
	p.must(cni.DEL, conf)
	second.must(cni.DEL, conf)
	w.empty()
	p.refused(cni.ADD, w.conf(map[string]any{"cniVersion": "1.0.0", "delegate": map[string]any{"isGateway": true, "hairpinMode": true, "promiscMode": true}}), "bridge: ")
	w.empty()
}

func TestNamesOf255BytesAreRecordedDeletedAndCollected(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onlyIPv4)
	w.path = "/nowhere"
	network, id := strings.Repeat("n", 255), strings.Repeat("c", 254)
	conf := with(w.conf(nil), "name", network)
	a, b, c := w.pod(id+"a"), w.pod(id+"b"), w.pod("short")
	for _, p := range []*pod{a, b, c} {
		p.add(conf)
		p.check(conf)
	}
	require.Equal(t, []string{".attachments/" + network + "/" + a.id + "/eth0", ".attachments/" + network + "/" + b.id + "/eth0",
		".attachments/" + network + "/short:eth0", a.id, b.id, "short"}, w.records())
	a.must(cni.DEL, conf)
	require.NoDirExists(t, w.file("flannel/.attachments/"+network+"/"+a.id))
	require.Zero(t, w.gc(conf, c).Status)
	require.Equal(t, []string{".attachments/" + network + "/short:eth0", "short"}, w.records())
	require.Zero(t, w.gc(conf).Status)
	w.empty()
	require.NoDirExists(t, w.file("flannel/.attachments"))
}

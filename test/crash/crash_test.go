package crash_test

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
	"github.com/cniblocks/cniblocks/internal/binaries"
	"github.com/cniblocks/cniblocks/internal/nstest"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/test/crash"
)

// These tests do not run in parallel: a tracer waits for whatever its thread started.

func TestMain(m *testing.M) { nstest.Main(m, binaries.Remove) }

// node is where plugins are killed.
type node struct {
	t   *testing.T
	ns  *netns.NS
	bin string
	dir string // leases, state
}

func newNode(t *testing.T) *node {
	t.Helper()
	nstest.NeedRoot(t)
	bin, err := binaries.Build()
	require.NoError(t, err)
	n := &node{t: t, ns: nstest.New(t), bin: bin, dir: t.TempDir()}
	nstest.Sysctl(t, n.ns, "net/ipv6/conf/default/accept_dad", "0")
	nstest.Link(t, nstest.End{NS: n.ns, Name: "uplink", Addrs: []string{"192.0.2.11/24", "2001:db8::11/64"}}, nstest.End{NS: nstest.New(t), Name: "eth0"})
	nstest.Settle(t, n.ns)
	return n
}

func (n *node) command(verb cni.Verb, id string, pod *netns.NS, conf string) *exec.Cmd {
	var c struct{ Type string }
	require.NoError(n.t, json.Unmarshal([]byte(conf), &c))
	stdin := filepath.Join(n.dir, "conf")
	require.NoError(n.t, os.WriteFile(stdin, []byte(conf), 0o600))
	f, err := os.Open(stdin)
	require.NoError(n.t, err)
	n.t.Cleanup(func() { f.Close() })
	cmd := exec.Command(filepath.Join(n.bin, c.Type))
	cmd.Stdin = f
	ns := ""
	if pod != nil {
		ns = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), pod.Fd())
	}
	cmd.Env = []string{"CNI_COMMAND=" + string(verb), "CNI_CONTAINERID=" + id, "CNI_NETNS=" + ns, "CNI_IFNAME=eth0", "CNI_PATH=" + n.bin}
	return cmd
}

// run lets a plugin finish.
func (n *node) run(verb cni.Verb, id string, pod *netns.NS, conf string) {
	n.t.Helper()
	cmd := n.command(verb, id, pod, conf)
	require.NoError(n.t, n.ns.Do(func() error {
		out, err := cmd.Output()
		if err != nil {
			err = fmt.Errorf("%s %s: %w: %s", verb, id, err, out)
		}
		return err
	}))
}

// kill runs a plugin and kills it before its k-th change.
func (n *node) kill(k int, verb cni.Verb, id string, pod *netns.NS, conf string) (killed bool) {
	n.t.Helper()
	cmd := n.command(verb, id, pod, conf)
	require.NoError(n.t, n.ns.Do(func() (err error) {
		killed, err = crash.Run(cmd, k)
		return err
	}))
	return killed
}

func (n *node) dump() string {
	nstest.Settle(n.t, n.ns)
	return nstest.Dump(n.ns) + "leases " + strings.Join(n.leases(), " ")
}

func (n *node) leases() (held []string) {
	entries, err := os.ReadDir(filepath.Join(n.dir, "net"))
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if _, err := netip.ParseAddr(e.Name()); err == nil {
			held = append(held, e.Name())
		}
	}
	return held
}

const most = 400 // kill points; more than any verb has

var configs = map[string]string{
	"IPv4":         `"isGateway":true,"ipMasq":true,"ipam":{"type":"host-local","dataDir":"DIR","subnet":"10.1.2.0/24"}`,
	"dual stack":   `"isDefaultGateway":true,"ipMasq":true,"ipam":{"type":"host-local","dataDir":"DIR","ranges":[[{"subnet":"10.1.2.0/24"}],[{"subnet":"fd00:1:2::/64"}]]}`,
	"macspoofchk":  `"isGateway":true,"macspoofchk":true,"hairpinMode":true,"ipam":{"type":"host-local","dataDir":"DIR","subnet":"10.1.2.0/24"}`,
	"layer 2 only": `"mtu":1400`,
}

func (n *node) conf(keys string) string {
	return `{"cniVersion":"1.1.0","name":"net","type":"bridge","bridge":"br0",` + strings.ReplaceAll(keys, "DIR", n.dir) + `}`
}

func gc(conf string, valid ...string) string {
	list := []string{}
	for _, id := range valid {
		list = append(list, fmt.Sprintf(`{"containerID":%q,"ifname":"eth0"}`, id))
	}
	return strings.TrimSuffix(conf, "}") + `,"cni.dev/valid-attachments":[` + strings.Join(list, ",") + `]}`
}

func TestAKillBeforeAnyChangeOfADDLeavesNothingAfterDELOrGC(t *testing.T) {
	for name, keys := range configs {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			conf := n.conf(keys)
			live := nstest.New(t)
			n.run(cni.ADD, "live", live, conf)
			warm := nstest.New(t)
			n.run(cni.ADD, "warm", warm, conf)
			n.run(cni.DEL, "warm", warm, conf)
			clean := n.dump()
			points := 0
			for k := 1; k <= most; k++ {
				pod := nstest.New(t)
				killed := n.kill(k, cni.ADD, "a", pod, conf)
				if k%2 == 0 {
					n.run(cni.DEL, "a", pod, conf)
				} else {
					n.run(cni.GC, "", nil, gc(conf, "live"))
				}
				require.Equal(t, clean, n.dump(), "killed before change %d of ADD", k)
				n.run(cni.ADD, "a", pod, conf)
				n.run(cni.DEL, "a", pod, conf)
				if !killed {
					break
				}
				points++
			}
			require.Greater(t, points, 5)
			t.Logf("%s: ADD has %d kill points, nothing survived any", name, points)
		})
	}
}

func TestAKillBeforeAnyChangeOfDELIsMendedByTheNext(t *testing.T) {
	for name, keys := range configs {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			conf := n.conf(keys)
			n.run(cni.ADD, "live", nstest.New(t), conf)
			pod := nstest.New(t)
			n.run(cni.ADD, "a", pod, conf)
			n.run(cni.DEL, "a", pod, conf)
			clean := n.dump()
			points := 0
			for k := 1; k <= most; k++ {
				n.run(cni.ADD, "a", pod, conf)
				killed := n.kill(k, cni.DEL, "a", pod, conf)
				n.run(cni.DEL, "a", nil, conf)
				require.Equal(t, clean, n.dump(), "killed before change %d of DEL", k)
				if !killed {
					break
				}
				points++
			}
			require.Greater(t, points, 2)
			t.Logf("%s: DEL has %d kill points, nothing survived any", name, points)
		})
	}
}

func TestAKillBeforeAnyChangeWhileTheOverlayIsMadeIsMendedByTheNextADD(t *testing.T) {
	points := 0
	want := ""
	for k := 1; k <= most; k++ {
		n := newNode(t)
		conf := `{"cniVersion":"1.1.0","name":"net","type":"overlay","encap":"vxlan","ipMasq":true,"stateDir":"` + n.dir + `/run",
			"network":["10.244.0.0/16","fd00:10:244::/48"],
			"peers":[{"name":"a","endpoint":["192.0.2.11","2001:db8::11"],"pods":["10.244.1.0/24","fd00:10:244:1::/64"]},
			{"name":"b","endpoint":["192.0.2.12","2001:db8::12"],"pods":["10.244.2.0/24","fd00:10:244:2::/64"]}],
			"delegate":{"type":"bridge","isDefaultGateway":true,"ipam":{"type":"host-local","dataDir":"` + n.dir + `"}}}`
		pod := nstest.New(t)
		killed := n.kill(k, cni.ADD, "a", pod, conf)
		n.run(cni.DEL, "a", pod, conf)
		n.run(cni.ADD, "a", pod, conf)
		check := strings.TrimSuffix(conf, "}") + `,"prevResult":` + n.result(pod, conf) + `}`
		n.run(cni.CHECK, "b", pod, check)
		d := nstest.Dump(n.ns)
		for _, object := range []string{"10.244.2.0/24 dev cb-vxlan", "fd00:10:244:2::/64 dev cb-vxlan", "masquerade"} {
			require.Contains(t, d, object, "killed before change %d", k)
		}
		if want == "" {
			want = objects(d)
		}
		require.Equal(t, want, objects(d), "killed before change %d", k)
		if !killed {
			break
		}
		points++
	}
	require.Greater(t, points, 20)
	t.Logf("the first ADD through an overlay has %d kill points, the next ADD mends each", points)
}

// result is that of one more attachment of the pod, "b" with its interface eth0 in place of a's.
func (n *node) result(pod *netns.NS, conf string) string {
	n.t.Helper()
	n.run(cni.DEL, "a", pod, conf)
	cmd := n.command(cni.ADD, "b", pod, conf)
	var out []byte
	require.NoError(n.t, n.ns.Do(func() (err error) { out, err = cmd.Output(); return err }))
	return string(out)
}

// objects counts the lines of a dump by kind and device, which do not depend on chance as MACs do.
func objects(dump string) string {
	count := map[string]int{}
	for line := range strings.Lines(dump) {
		if strings.HasPrefix(line, "route ") && strings.Contains(line, "proto 117") || strings.HasPrefix(line, "neighbour ") ||
			strings.HasPrefix(line, "fdb ") && strings.Contains(line, "dst 192.0.2.12") {
			kind, _, _ := strings.Cut(line, " ")
			count[kind]++
		}
	}
	return fmt.Sprint(count)
}

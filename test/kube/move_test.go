//go:build linux

package kube_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/test/binaries"
	"github.com/cniblocks/cniblocks/internal/test/kubetest"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/netns"
)

const (
	flannelNamespace = "kube-flannel"
	ourNamespace     = "cniblocks"
)

func TestAClusterMovesFromFlannelNodeByNodeAndBackWhileItsPodsTalk(t *testing.T) {
	t.Parallel()
	needPrograms(t)
	_, err := kubetest.Binaries()
	require.NoError(t, err)
	s := &story{cluster: newCluster(t, options{
		images:  append(images(t), flannelImages(t)...),
		plugins: []string{"bridge", "host-local", "loopback", "portmap", "firewall"},
	})}
	s.n1 = s.newMachine("n1", "192.0.2.1")
	s.n2 = s.newMachine("n2", "192.0.2.2")
	nodes := []*machine{s.n1, s.n2}

	plugins := blocks(t, "The plugin")
	require.Len(t, plugins, 2)
	for line := range strings.Lines(plugins[0]) {
		if strings.HasPrefix(line, "cp ") {
			s.on(nodes, line)
		}
	}
	s.flannelMakesThemReady()
	one, two := s.run("one", s.n1, ""), s.run("two", s.n2, "")
	s.talk("one", "two")
	s.bothDaemonSetsAreThere(nodes)
	there, back := s.stream(s.podOf(s.n1, one), two), s.stream(s.podOf(s.n2, two), one)

	for _, m := range nodes {
		s.movesToOurs(m)
		s.run("young-"+m.name, m, "")
		s.talk("one", "two")
		s.talk("one", "young-"+m.name)
		s.talk("young-"+m.name, "two")
		t.Logf("%s is ours: one to two %s, two to one %s", m.name, there.said(), back.said())
	}
	for _, m := range nodes {
		s.movesBack(m)
		s.run("late-"+m.name, m, "")
		s.talk("late-"+m.name, "one")
		s.talk("two", "late-"+m.name)
		s.talk("young-n1", "young-n2")
		t.Logf("%s is flannel's: one to two %s, two to one %s", m.name, there.said(), back.said())
	}
	for name, st := range map[string]*stream{"one to two": there, "two to one": back} {
		st.stop()
		sent, lost := st.count()
		require.NotZero(t, sent)
		require.Zero(t, lost, "%s: of %d packets", name, sent)
	}
	s.kubectl("delete", "pod", "--all", "--wait=true")
	for _, m := range nodes {
		left, err := m.Run(nil, "sh", "-c", "ls /var/lib/cni/networks/cbr0 | grep '^10[.]' || true; ls /var/lib/cni/flannel")
		require.NoError(t, err)
		require.Empty(t, left, "%s: leases and records", m.name)
	}
	s.on(nodes, plugins[1])
	for _, m := range nodes {
		s.oursAreInstalled(m)
		_, err := m.Run(nil, "cmp", "/opt/cni/bin/bridge", "/opt/cni/bin/host-local")
		require.Error(t, err, "%s: two names have one plugin", m.name)
	}
}

// on runs commands on nodes.
func (s *story) on(nodes []*machine, commands string) {
	s.t.Helper()
	for _, m := range nodes {
		_, err := m.Run(nil, "sh", "-exc", commands)
		require.NoError(s.t, err)
	}
}

func (s *story) flannelMakesThemReady() {
	s.apply(flannelManifest(s.t), "apply", "-f", "-")
	for _, m := range []*machine{s.n1, s.n2} {
		s.eventually(m.name+": is ready with flannel", func() bool {
			status, _ := s.condition(m.name, "Ready")
			ready, _ := s.daemonOn(m, flannelNamespace)
			return status == "True" && ready
		})
		require.Contains(s.t, nstest.Dump(m.Net), "FLANNEL-POSTRTG")
	}
}

// bothDaemonSetsAreThere does what the page says to do before the first node moves.
func (s *story) bothDaemonSetsAreThere(nodes []*machine) {
	steps := blocks(s.t, "The daemon, on Kubernetes")
	require.Len(s.t, steps, 5)
	dir := s.t.TempDir()
	s.do(dir, steps[0])
	s.kubectl("-n", flannelNamespace, "rollout", "status", "daemonset/kube-flannel-ds", "--timeout="+endurance.String())
	s.do(dir, steps[1])
	here, err := filepath.Abs(manifests)
	require.NoError(s.t, err)
	base, err := filepath.Rel(dir, here)
	require.NoError(s.t, err)
	require.Contains(s.t, steps[2], "resources: [../deploy/kubernetes]\n")
	kustomization := strings.Replace(steps[2], "../deploy/kubernetes", base, 1)
	require.NoError(s.t, os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(kustomization), 0o600))
	s.do(dir, steps[3])
	for _, m := range nodes {
		ready, _ := s.daemonOn(m, flannelNamespace)
		require.True(s.t, ready, m.name)
		_, there := s.daemonOn(m, ourNamespace)
		require.False(s.t, there, m.name)
	}
}

// identity is what other nodes know a node by, and what pods on it depend on.
type identity struct {
	annotations  map[string]string
	device       int
	mac, cni0MAC string
	range4, env  string
}

func (s *story) identity(m *machine) (id identity) {
	s.t.Helper()
	var all map[string]string
	require.NoError(s.t, json.Unmarshal([]byte(s.kubectl("get", "node", m.name, "-o", "jsonpath={.metadata.annotations}")), &all))
	id.annotations = map[string]string{}
	for k, v := range all {
		if strings.HasPrefix(k, "flannel.alpha.coreos.com/") {
			id.annotations[k] = v
		}
	}
	h := nstest.Netlink(s.t, m.Net)
	l, err := h.LinkByName("flannel.1")
	require.NoError(s.t, err)
	id.device, id.mac = l.Attrs().Index, l.Attrs().HardwareAddr.String()
	l, err = h.LinkByName("cni0")
	require.NoError(s.t, err)
	id.cni0MAC = l.Attrs().HardwareAddr.String()
	id.range4, id.env = s.podCIDR(m), m.read("/run/flannel/subnet.env")
	require.Contains(s.t, id.annotations["flannel.alpha.coreos.com/backend-data"], id.mac)
	require.Equal(s.t, m.ip.String(), id.annotations["flannel.alpha.coreos.com/public-ip"])
	return id
}

func (s *story) movesToOurs(m *machine) {
	s.t.Helper()
	before := s.identity(m)
	steps := blocks(s.t, "The daemon, on Kubernetes")
	s.do(s.t.TempDir(), strings.ReplaceAll(steps[4], "NODE", m.name))
	s.takesOver(m, ourNamespace, flannelNamespace)
	require.Equal(s.t, before, s.identity(m))
	state := nstest.Dump(m.Net)
	require.NotContains(s.t, state, "FLANNEL")
	require.Contains(s.t, state, "table inet cniblocks")
	require.Contains(s.t, state, `alias "cniblocks/cbr0"`)
	program, err := binaries.Command()
	require.NoError(s.t, err)
	status, err := m.Run(nil, program, "status", "cbr0")
	require.NoError(s.t, err)
	s.t.Logf("%s:\n%s", m.name, status)
	s.oursAreInstalled(m, "flannel", "bridge", "host-local", "loopback", "portmap")
}

// oursAreInstalled proves that these names, and no more, are programs of ours.
func (s *story) oursAreInstalled(m *machine, names ...string) {
	s.t.Helper()
	for _, name := range []string{"flannel", "bridge", "host-local", "loopback", "portmap", "firewall"} {
		_, err := m.Run(nil, "grep", "-aq", "cniblocks/cniblocks/plugins", "/opt/cni/bin/"+name)
		require.Equal(s.t, strings.Contains(strings.Join(names, " "), name), err == nil, "%s: %s is ours: %v", m.name, name, err)
	}
}

func (s *story) movesBack(m *machine) {
	s.t.Helper()
	before := s.identity(m)
	steps := blocks(s.t, "The way back")
	require.Len(s.t, steps, 2)
	s.do(s.t.TempDir(), strings.ReplaceAll(steps[0], "NODE", m.name))
	s.takesOver(m, flannelNamespace, ourNamespace)
	require.Equal(s.t, before, s.identity(m))
	s.on([]*machine{m}, steps[1])
	require.Equal(s.t, before, s.identity(m))
	left := nstest.Dump(m.Net)
	for _, ours := range []string{"proto 117", "table inet cniblocks", `alias "cniblocks/cbr0"`} {
		require.NotContains(s.t, left, ours)
	}
	require.Contains(s.t, left, "FLANNEL-POSTRTG")
	s.oursAreInstalled(m, "bridge", "host-local", "loopback", "portmap") // flannel has put its own plugin in place
}

// podOf is the namespace of the pod with an address.
func (s *story) podOf(m *machine, ip netip.Addr) *netns.NS {
	s.t.Helper()
	var files []int
	require.NoError(s.t, m.Do(func() error {
		entries, err := os.ReadDir(netns.Dir)
		for _, e := range entries {
			fd, err := unix.Open(filepath.Join(netns.Dir, e.Name()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			files = append(files, fd)
		}
		return err
	}))
	for _, fd := range files {
		ns, err := netns.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
		unix.Close(fd)
		require.NoError(s.t, err)
		s.t.Cleanup(func() { ns.Close() })
		addrs, err := nstest.Netlink(s.t, ns).AddrList(nil, netlink.FAMILY_V4)
		require.NoError(s.t, err)
		if slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IP.String() == ip.String() }) {
			return ns
		}
	}
	require.Fail(s.t, "no such pod", "%s on %s", ip, m.name)
	return nil
}

// stream is echo requests from a pod to an address, twenty a second, one after the other.
type stream struct {
	mu         sync.Mutex
	sent, lost int
	stop       func()
}

func (s *story) stream(from *netns.NS, to netip.Addr) *stream {
	st := &stream{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	st.stop = func() { cancel(); <-done }
	s.t.Cleanup(st.stop)
	go func() {
		defer close(done)
		for ; ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
			one, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			err := nstest.Ping(one, from, to, ping.Options{})
			cancel()
			st.mu.Lock()
			st.sent++
			if err != nil {
				st.lost++
			}
			st.mu.Unlock()
		}
	}()
	return st
}

func (st *stream) count() (sent, lost int) {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.sent, st.lost
}

func (st *stream) said() string {
	sent, lost := st.count()
	return fmt.Sprintf("%d of %d lost", lost, sent)
}

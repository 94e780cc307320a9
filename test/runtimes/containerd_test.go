//go:build linux

package runtimes_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/cniblocks/cniblocks/internal/test/reference"
	"github.com/cniblocks/cniblocks/test/internal/node"
	"github.com/cniblocks/cniblocks/test/runtimes/internal/cri"
)

// containerd is one that runs on a node of its own.
type containerd struct {
	*node.Node
	*cri.Client
	t      *testing.T
	bin    string // where its programs are; "": the installed ones
	daemon *exec.Cmd
	log    *os.File
}

const (
	home      = "/run/containerd-lab"
	socket    = home + "/containerd.sock"
	confDir   = home + "/net.d"
	confFile  = confDir + "/10-pods.conflist"
	endurance = 2 * time.Minute // how long to wait for what must happen
)

// onContainerd runs a test with the installed containerd, and with containerd 2; bin is where the programs are.
func onContainerd(t *testing.T, test func(t *testing.T, bin string)) {
	needPrograms(t, "containerd runc busybox-static", "containerd", "ctr", "runc")
	two, err := reference.Containerd()
	require.NoError(t, err)
	for name, bin := range map[string]string{"installed": "", reference.ContainerdVersion: two} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, bin)
		})
	}
}

// newContainerd starts containerd with our plugins. An empty conflist means none.
func newContainerd(t *testing.T, bin, conflist string) *containerd {
	t.Helper()
	dir := ours(t)
	file := imageFile(t)
	c := &containerd{Node: node.New(t), t: t, bin: bin}
	var err error
	c.log, err = os.Create(t.TempDir() + "/containerd.log")
	require.NoError(t, err)
	t.Cleanup(c.showLog)
	c.Write(t, home+"/config.toml", config(t, bin, dir))
	if conflist != "" {
		c.Write(t, confFile, conflist)
	} else {
		require.NoError(t, c.Do(func() error { return os.MkdirAll(confDir, 0o755) }))
	}
	c.Client = cri.New(c.dial)
	t.Cleanup(c.Close)
	c.start()
	t.Cleanup(c.stop)
	_, err = c.Run(nil, filepath.Join(bin, "ctr"), "-a", socket, "-n", "k8s.io", "images", "import", file)
	require.NoError(t, err)
	return c
}

func (c *containerd) dial(ctx context.Context) (conn net.Conn, err error) {
	err = c.Do(func() error {
		conn, err = new(net.Dialer).DialContext(ctx, "unix", socket)
		return err
	})
	return conn, err
}

// config is in the words of the containerd in bin.
func config(t *testing.T, bin, dir string) string {
	t.Helper()
	out, err := exec.Command(filepath.Join(bin, "containerd"), "--version").Output()
	require.NoError(t, err)
	words := strings.Fields(string(out)) // containerd github.com/containerd/containerd v1.6.20 ...
	require.Greater(t, len(words), 2, "%s", out)
	major, _, _ := strings.Cut(strings.TrimPrefix(words[2], "v"), ".")
	if n, err := strconv.Atoi(major); err == nil && n < 2 {
		return fmt.Sprintf(`version = 2
root = "%[1]s/root"
state = "%[1]s/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
 address = "%[2]s"
[plugins."io.containerd.grpc.v1.cri"]
 sandbox_image = "%[3]s"
 disable_apparmor = true
 restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
 bin_dir = "%[4]s"
 conf_dir = "%[5]s"
`, home, socket, imageName, dir, confDir)
	}
	return fmt.Sprintf(`version = 3
root = "%[1]s/root"
state = "%[1]s/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
 address = "%[2]s"
[plugins."io.containerd.cri.v1.images".pinned_images]
 sandbox = "%[3]s"
[plugins."io.containerd.cri.v1.runtime"]
 disable_apparmor = true
 restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
 bin_dirs = ["%[4]s"]
 conf_dir = "%[5]s"
`, home, socket, imageName, dir, confDir)
}

// start starts the daemon and waits until it answers.
func (c *containerd) start() {
	c.t.Helper()
	c.daemon = exec.Command(filepath.Join(c.bin, "containerd"), "--config", home+"/config.toml")
	c.daemon.Env = append(os.Environ(), "TMPDIR="+node.Tmp)
	if c.bin != "" { // where its shim is
		c.daemon.Env = append(c.daemon.Env, "PATH="+c.bin+":"+os.Getenv("PATH"))
	}
	c.daemon.Stdout, c.daemon.Stderr = c.log, c.log
	require.NoError(c.t, c.Do(c.daemon.Start))
	require.Eventually(c.t, func() bool {
		_, _, err := c.NetworkReady(c.t.Context())
		return err == nil
	}, endurance, 20*time.Millisecond, "containerd does not answer")
}

// stop stops the daemon. The pods stay.
func (c *containerd) stop() {
	_ = c.daemon.Process.Signal(syscall.SIGTERM)
	_ = c.daemon.Wait()
}

func (c *containerd) showLog() {
	c.log.Close()
	if !c.t.Failed() {
		return
	}
	b, err := os.ReadFile(c.log.Name())
	require.NoError(c.t, err)
	all := lines(string(b))
	c.t.Logf("the end of containerd's log:\n%s", strings.Join(all[max(0, len(all)-40):], "\n"))
}

// criPod is a pod of containerd's. Its methods return errors since pods are made in parallel.
type criPod struct {
	c    *containerd
	spec cri.Pod
	id   string
	ips  []netip.Addr
}

func (c *containerd) pod(name string) *criPod {
	return &criPod{c: c, spec: cri.Pod{Name: name, CgroupParent: c.Cgroup, LogDir: home + "/logs/" + name}}
}

func (p *criPod) run() (err error) {
	p.spec.Attempt++
	if p.id, err = p.c.RunPod(p.c.t.Context(), p.spec); err != nil {
		return err
	}
	p.ips, err = p.c.PodIPs(p.c.t.Context(), p.id)
	return err
}

func (p *criPod) remove() error { return p.c.RemovePod(p.c.t.Context(), p.id) }

// container starts one in the pod that does nothing.
func (p *criPod) container(name string) (id string) {
	t := p.c.t
	t.Helper()
	id, err := p.c.RunContainer(t.Context(), p.spec, p.id, name, imageName)
	require.NoError(t, err)
	return id
}

// ping proves that a container reaches the addresses.
func (c *containerd) ping(container string, to ...netip.Addr) {
	c.t.Helper()
	_, err := c.Exec(c.t.Context(), container, endurance, pings(to)...)
	require.NoError(c.t, err)
}

// settled is the trace when a first pod came and went.
func (c *containerd) settled() string {
	c.t.Helper()
	p := c.pod("first")
	require.NoError(c.t, p.run())
	require.NoError(c.t, p.remove())
	return c.Trace(c.t)
}

func gateways() []netip.Addr {
	return []netip.Addr{netip.MustParseAddr("10.1.2.1"), netip.MustParseAddr("fd00:1:2::1")}
}

func outsides() []netip.Addr {
	return []netip.Addr{netip.MustParseAddr(outside4), netip.MustParseAddr(outside6)}
}

func TestContainerdsNetworkTurnsReadyAsSoonAsTheConflistIsThere(t *testing.T) {
	t.Parallel()
	onContainerd(t, containerdsNetworkTurnsReadyAsSoonAsTheConflistIsThere)
}

func containerdsNetworkTurnsReadyAsSoonAsTheConflistIsThere(t *testing.T, bin string) {
	c := newContainerd(t, bin, "")
	ready, reason, err := c.NetworkReady(t.Context())
	require.NoError(t, err)
	require.False(t, ready)
	require.Contains(t, reason, "cni plugin not initialized")
	_, err = c.RunPod(t.Context(), c.pod("early").spec)
	require.ErrorContains(t, err, "cni plugin not initialized")

	c.Write(t, confFile, conflist("pods"))
	written := time.Now()
	require.Eventually(t, func() bool {
		ready, reason, err = c.NetworkReady(t.Context())
		return err == nil && ready
	}, endurance, time.Millisecond, "%s %v", reason, err)
	t.Logf("ready %s after the conflist was written", time.Since(written).Round(time.Millisecond))
	require.NoError(t, c.pod("now").run())
}

func TestContainerdsPodsStartTalkRestartAndGoWithoutATrace(t *testing.T) {
	t.Parallel()
	onContainerd(t, containerdsPodsStartTalkRestartAndGoWithoutATrace)
}

func containerdsPodsStartTalkRestartAndGoWithoutATrace(t *testing.T, bin string) {
	c := newContainerd(t, bin, conflist("pods"))
	withOutside(t, c.Node)
	clean := c.settled()

	a, b := c.pod("a"), c.pod("b")
	require.NoError(t, a.run())
	require.NoError(t, b.run())
	require.Len(t, a.ips, 2)
	inA, inB := a.container("main"), b.container("main")
	c.ping(inA, append(append(b.ips, gateways()...), outsides()...)...)
	c.ping(inB, append(append(a.ips, gateways()...), outsides()...)...)
	for _, ip := range append(a.ips, b.ips...) {
		reach(t, c.Net, ip)
	}

	// A container restarts within its pod, which keeps its addresses.
	require.NoError(t, c.RemoveContainer(t.Context(), inA))
	c.ping(a.container("again"), b.ips...)
	// A pod restarts.
	require.NoError(t, b.remove())
	require.NoError(t, b.run())
	inB = b.container("main")
	c.ping(inB, a.ips...)
	// containerd restarts, below its pods.
	c.stop()
	reach(t, c.Net, a.ips[0])
	c.start()
	c.ping(inB, a.ips...)

	require.NoError(t, a.remove())
	require.NoError(t, b.remove())
	require.Equal(t, clean, c.Trace(t))
}

func TestFiftyPodsOfContainerdStartAtOnceAndGoWithoutATrace(t *testing.T) {
	t.Parallel()
	onContainerd(t, fiftyPodsOfContainerdStartAtOnceAndGoWithoutATrace)
}

func fiftyPodsOfContainerdStartAtOnceAndGoWithoutATrace(t *testing.T, bin string) {
	c := newContainerd(t, bin, conflist("pods"))
	clean := c.settled()
	pods := make([]*criPod, 50)
	begin := time.Now()
	var g errgroup.Group
	for i := range pods {
		pods[i] = c.pod(fmt.Sprint("pod", i))
		g.Go(pods[i].run)
	}
	require.NoError(t, g.Wait())
	t.Logf("%d pods after %s", len(pods), time.Since(begin).Round(time.Millisecond))

	owner := map[netip.Addr]string{}
	for _, p := range pods {
		require.Len(t, p.ips, 2)
		for _, ip := range p.ips {
			require.NotContains(t, owner, ip, p.spec.Name)
			owner[ip] = p.spec.Name
			reach(t, c.Net, ip)
		}
	}
	c.ping(pods[0].container("main"), pods[49].ips...)

	begin = time.Now()
	for _, p := range pods {
		g.Go(p.remove)
	}
	require.NoError(t, g.Wait())
	t.Logf("gone after %s", time.Since(begin).Round(time.Millisecond))
	require.Equal(t, clean, c.Trace(t))
}

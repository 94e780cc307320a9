//go:build linux

package kube_test

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/test/kubetest"
	"github.com/cniblocks/cniblocks/internal/test/reference"
	"github.com/cniblocks/cniblocks/test/internal/node"
)

// machine is a node of a cluster.
type machine struct {
	*node.Node
	c    *cluster
	name string
	ip   netip.Addr
	logs string

	containerd, kubelet, proxy *daemon
}

// daemon is a program that runs on a machine.
type daemon struct {
	cmd  *exec.Cmd
	done chan struct{}
}

const socket = "/run/containerd/containerd.sock"

// newMachine makes a machine with everything that a node has before its first CNI configuration: containerd, kubelet,
// kube-proxy, and the reference plugins of the cluster.
func (c *cluster) newMachine(name, ip string) *machine {
	t := c.t
	t.Helper()
	var containers []string
	t.Cleanup(func() { removeCgroups(t, containers) }) // when they have ended, with the node
	m := &machine{Node: node.New(t), c: c, name: name, ip: netip.MustParseAddr(ip), logs: t.TempDir()}
	c.plug(m.Net, ip)
	require.NoError(t, m.Do(private))
	m.plugins()
	t.Cleanup(m.showLogs)
	m.runContainerd()
	m.Write(t, "/etc/kubelet.yaml", fmt.Sprintf(kubeletConfig, m.Cgroup, socket))
	t.Cleanup(func() { containers = m.containers() })
	m.startKubelet()
	config := m.kubeconfig()
	m.proxy = m.start("kube-proxy", filepath.Join(c.Bin, kubetest.Proxy), "--kubeconfig="+config, "--hostname-override="+name,
		"--proxy-mode=iptables", "--cluster-cidr="+podNetwork, "--conntrack-max-per-core=0")
	c.eventually(name+": is registered and has a range", func() bool {
		out, err := c.Kubectl("", "get", "node", name, "-o", "jsonpath={.spec.podCIDR}")
		return err == nil && out != ""
	})
	return m
}

// private gives a machine the directories that are the machine's own beside those of package node. What is read below
// /etc is still there.
func private() error {
	for _, dir := range []string{"/run/etc/upper", "/run/etc/work"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("overlay", "/etc", "overlay", 0, "lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work"); err != nil {
		return fmt.Errorf("mount overlay on /etc: %w", err)
	}
	for _, dir := range []string{"/opt", "/var/log"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID, "mode=755"); err != nil {
			return fmt.Errorf("mount tmpfs on %s: %w", dir, err)
		}
	}
	for _, dir := range []string{"/etc/cni/net.d", "/opt/cni/bin", "/run/containerd"} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// plugins puts those of the reference that every node of the cluster has in place.
func (m *machine) plugins() {
	t := m.c.t
	t.Helper()
	dir, err := reference.Build(m.c.plugins...)
	require.NoError(t, err)
	for _, name := range m.c.plugins {
		b, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.NoError(t, m.Do(func() error { return os.WriteFile("/opt/cni/bin/"+name, b, 0o755) }))
	}
}

// containers are the IDs of those that containerd has.
func (m *machine) containers() []string {
	out, err := m.Run(nil, filepath.Join(m.c.containerd, "ctr"), "-a", socket, "-n", "k8s.io", "containers", "ls", "-q")
	require.NoError(m.c.t, err)
	return strings.Fields(out)
}

// removeCgroups removes the cgroups of containers that were killed. They are not in the node's: a kubelet that is not to
// touch the machine's cgroups names none to the runtime.
func removeCgroups(t *testing.T, containers []string) {
	t.Helper()
	for _, id := range containers {
		require.NoError(t, node.RemoveCgroup("/k8s.io/"+id))
	}
}

// runContainerd starts containerd, and gives it the images of the cluster.
func (m *machine) runContainerd() {
	c := m.c
	c.t.Helper()
	m.Write(c.t, "/etc/containerd/config.toml", containerdConfig(c.t, c.containerd))
	m.containerd = m.start("containerd", filepath.Join(c.containerd, "containerd"), "--config", "/etc/containerd/config.toml")
	ctr := filepath.Join(c.containerd, "ctr")
	c.eventually(m.name+": containerd answers", func() bool {
		_, err := m.Run(nil, ctr, "-a", socket, "version")
		return err == nil
	})
	for _, file := range c.images {
		_, err := m.Run(nil, ctr, "-a", socket, "-n", "k8s.io", "images", "import", file)
		require.NoError(c.t, err)
	}
}

func (m *machine) kubeconfig() string {
	m.c.t.Helper()
	config, err := m.c.Kubeconfig("")
	require.NoError(m.c.t, err)
	return config
}

func (m *machine) startKubelet() {
	ips := m.ip.String()
	if m.c.dual {
		ips += "," + six(ips)
	}
	m.kubelet = m.start("kubelet", filepath.Join(m.c.Bin, kubetest.Kubelet), "--config=/etc/kubelet.yaml", "--kubeconfig="+m.kubeconfig(),
		"--hostname-override="+m.name, "--node-ip="+ips, "--cert-dir=/var/lib/kubelet/pki", "--v=2")
}

// start starts a program on the machine, until the end of the test.
func (m *machine) start(name string, argv ...string) *daemon {
	t := m.c.t
	t.Helper()
	log, err := os.OpenFile(filepath.Join(m.logs, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	require.NoError(t, err)
	defer log.Close()
	d := &daemon{cmd: exec.Command(argv[0], argv[1:]...), done: make(chan struct{})}
	d.cmd.Env = append(os.Environ(), "TMPDIR="+node.Tmp)
	if dir := m.c.containerd; dir != "" { // where its shim is
		d.cmd.Env = append(d.cmd.Env, "PATH="+dir+":"+os.Getenv("PATH"))
	}
	d.cmd.Stdout, d.cmd.Stderr = log, log
	require.NoError(t, m.Do(d.cmd.Start))
	go func() {
		defer close(d.done)
		_ = d.cmd.Wait()
	}()
	t.Cleanup(d.stop)
	return d
}

// stop ends the program, and waits. It may be called again.
func (d *daemon) stop() {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.done:
	case <-time.After(10 * time.Second):
		_ = d.cmd.Process.Kill()
		<-d.done
	}
}

// showLogs prints the ends of the logs if the test failed: those of the agent, and of the machine's programs.
func (m *machine) showLogs() {
	t := m.c.t
	if !t.Failed() {
		return
	}
	out, _ := m.Run(nil, "sh", "-c", "tail -n 25 /var/log/pods/cniblocks_*/*/*.log")
	t.Logf("%s: the agent's log:\n%s", m.name, out)
	entries, err := os.ReadDir(m.logs)
	require.NoError(t, err)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(m.logs, e.Name()))
		require.NoError(t, err)
		all := strings.Split(string(b), "\n")
		t.Logf("%s: the end of the log of %s:\n%s", m.name, e.Name(), strings.Join(all[max(0, len(all)-10):], "\n"))
	}
}

// read is a file of the machine's, empty if it is not there.
func (m *machine) read(path string) string {
	var b []byte
	_ = m.Do(func() (err error) {
		b, err = os.ReadFile(path)
		return err
	})
	return string(b)
}

const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupRoot: %[1]s
cgroupsPerQOS: false
enforceNodeAllocatable: []
containerRuntimeEndpoint: unix://%[2]s
failSwapOn: false
failCgroupV1: false
evictionHard: {memory.available: 1Mi, nodefs.available: 0%%, imagefs.available: 0%%}
imageGCHighThresholdPercent: 100
resolvConf: ""
localStorageCapacityIsolation: false
nodeStatusUpdateFrequency: 2s
makeIPTablesUtilChains: false
`

// containerdConfig is in the words of the containerd in dir, "" being the installed one.
func containerdConfig(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.Command(filepath.Join(dir, "containerd"), "--version").Output()
	require.NoError(t, err)
	words := strings.Fields(string(out)) // containerd github.com/containerd/containerd v1.6.20 ...
	require.Greater(t, len(words), 2, "%s", out)
	if strings.HasPrefix(strings.TrimPrefix(words[2], "v"), "1.") {
		return fmt.Sprintf(`version = 2
root = "/var/lib/containerd"
state = "/run/containerd/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
 address = %q
[plugins."io.containerd.grpc.v1.cri"]
 sandbox_image = %q
 disable_apparmor = true
 restrict_oom_score_adj = true
`, socket, busyboxImage)
	}
	return fmt.Sprintf(`version = 3
root = "/var/lib/containerd"
state = "/run/containerd/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
 address = %q
[plugins."io.containerd.cri.v1.images".pinned_images]
 sandbox = %q
[plugins."io.containerd.cri.v1.runtime"]
 disable_apparmor = true
 restrict_oom_score_adj = true
`, socket, busyboxImage)
}

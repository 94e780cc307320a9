//go:build linux

package runtimes_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/test/internal/node"
)

// podman is one with its CNI backend, on a node of its own.
type podman struct {
	*node.Node
	t *testing.T
}

const podmanHome = "/run/podman-lab"

// newPodman gives podman the plugins of a directory and one network, "pods".
func newPodman(t *testing.T, dir, conflist string) *podman {
	t.Helper()
	needPrograms(t, "podman runc busybox-static", "podman", "runc")
	out, err := exec.Command("podman", "--version").Output()
	require.NoError(t, err)
	version, _, _ := strings.Cut(strings.TrimPrefix(string(out), "podman version "), ".")
	if version != "3" && version != "4" {
		t.Skipf("lane: needs podman 3 or 4, whose networks can be CNI's; this is %s", strings.TrimSpace(string(out)))
	}
	file := imageFile(t)
	p := &podman{node.New(t), t}
	p.Write(t, podmanHome+"/net.d/87-pods.conflist", conflist)
	p.Write(t, podmanHome+"/containers.conf", fmt.Sprintf(`[containers]
apparmor_profile = "unconfined"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[network]
network_backend = "cni"
cni_plugin_dirs = ["%s"]
network_config_dir = "%s/net.d"
default_network = "pods"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
`, dir, podmanHome))
	p.Write(t, podmanHome+"/storage.conf", fmt.Sprintf(`[storage]
driver = "overlay"
graphroot = "%[1]s/root"
runroot = "%[1]s/run"
`, podmanHome))
	p.do("load", "--quiet", "--input", file)
	return p
}

func (p *podman) env() []string {
	return []string{"CONTAINERS_CONF=" + podmanHome + "/containers.conf", "CONTAINERS_STORAGE_CONF=" + podmanHome + "/storage.conf"}
}

func (p *podman) try(args ...string) (string, error) {
	out, err := p.Node.Run(p.env(), "podman", args...)
	return strings.TrimSpace(out), err
}

func (p *podman) do(args ...string) string {
	p.t.Helper()
	out, err := p.try(args...)
	require.NoError(p.t, err)
	return out
}

// run starts a container that does nothing.
func (p *podman) run(name string, flags ...string) error {
	args := append([]string{"run", "--detach", "--name", name, "--cgroup-parent", p.Cgroup}, flags...)
	_, err := p.try(append(args, imageName)...)
	return err
}

// ips are a container's addresses, as podman has them of the plugins.
func (p *podman) ips(name string) (out []netip.Addr) {
	p.t.Helper()
	var inspected []struct {
		NetworkSettings struct {
			Networks map[string]struct{ IPAddress, GlobalIPv6Address string }
		}
	}
	require.NoError(p.t, json.Unmarshal([]byte(p.do("inspect", name)), &inspected))
	require.Len(p.t, inspected, 1)
	n := inspected[0].NetworkSettings.Networks["pods"]
	for _, s := range []string{n.IPAddress, n.GlobalIPv6Address} {
		ip, err := netip.ParseAddr(s)
		require.NoError(p.t, err)
		out = append(out, ip)
	}
	return out
}

func (p *podman) ping(container string, to ...netip.Addr) {
	p.t.Helper()
	p.do(append([]string{"exec", container}, pings(to)...)...)
}

// settled is the trace when a first container came and went.
func (p *podman) settled(flags ...string) string {
	p.t.Helper()
	require.NoError(p.t, p.run("first", flags...))
	p.do("rm", "--force", "--time", "0", "first")
	return p.Trace(p.t)
}

func TestPodmansContainersStartTalkRestartAndGoWithoutATrace(t *testing.T) {
	t.Parallel()
	p := newPodman(t, ours(t), conflist("pods"))
	withOutside(t, p.Node)
	clean := p.settled()

	require.NoError(t, p.run("a"))
	require.NoError(t, p.run("b"))
	a, b := p.ips("a"), p.ips("b")
	p.ping("a", append(append(b, gateways()...), outsides()...)...)
	p.ping("b", a...)
	for _, ip := range append(a, b...) {
		reach(t, p.Net, ip)
	}
	p.do("restart", "--time", "0", "b")
	p.ping("b", a...)
	p.ping("a", p.ips("b")...)
	p.do("run", "--rm", "--cgroup-parent", p.Cgroup, "--entrypoint", "", imageName, "ping", "-c", "1", "-W", "5", a[0].String())

	p.do("rm", "--force", "--time", "0", "a", "b")
	require.Equal(t, clean, p.Trace(t))
}

func TestPodmanPublishesAPortThroughOurPortmapAndTheReferences(t *testing.T) {
	t.Parallel()
	for whose, reference := range map[string][]string{"ours": {"firewall", "tuning"}, "the reference's": {"portmap", "firewall", "tuning"}} {
		t.Run(whose, func(t *testing.T) {
			t.Parallel()
			p := newPodman(t, with(t, reference...), conflist("pods",
				object{"type": "portmap", "capabilities": object{"portMappings": true}},
				object{"type": "firewall", "backend": "iptables"},
				object{"type": "tuning"}))
			outside := withOutside(t, p.Node)
			clean := p.settled("--publish", "8081:80")

			require.NoError(t, p.run("web", "--publish", "8080:80"))
			p.do("exec", "web", "httpd", "-h", "/www") // goes into the background by itself
			require.Equal(t, "hello", get(t, outside, netip.MustParseAddrPort(node4+":8080")))

			p.do("rm", "--force", "--time", "0", "web")
			require.Equal(t, clean, p.Trace(t))
		})
	}
}

// get fetches the first page of a web server.
func get(t *testing.T, from *netns.NS, at netip.AddrPort) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), endurance)
	defer cancel()
	c, err := nstest.Dial(ctx, from, at)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(endurance)))
	_, err = io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
	require.NoError(t, err)
	answer, err := io.ReadAll(c)
	require.NoError(t, err)
	_, body, _ := strings.Cut(string(answer), "\r\n\r\n")
	return strings.TrimSpace(body)
}

func TestEightContainersOfPodmanStartAtOnceAndGoWithoutATrace(t *testing.T) {
	t.Parallel()
	p := newPodman(t, ours(t), conflist("pods"))
	clean := p.settled()
	var g errgroup.Group
	names := []string{"c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8"}
	for _, name := range names {
		g.Go(func() error { return p.run(name) })
	}
	require.NoError(t, g.Wait())
	owner := map[netip.Addr]string{}
	for _, name := range names {
		for _, ip := range p.ips(name) {
			require.NotContains(t, owner, ip, name)
			owner[ip] = name
			reach(t, p.Net, ip)
		}
	}
	p.do(append([]string{"rm", "--force", "--time", "0"}, names...)...)
	require.Equal(t, clean, p.Trace(t))
}

//go:build linux

package runtimes_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/binaries"
)

const agentImage = "cniblocks.test/agent:1"

// buildImage has make image build the image of the agent.
func (p *podman) buildImage(plugins string) {
	p.t.Helper()
	program, err := binaries.Command()
	require.NoError(p.t, err)
	from := p.t.TempDir() // as make build leaves bin
	for name, to := range map[string]string{"cniblocks": program, "loopback": filepath.Join(plugins, "loopback")} {
		b, err := os.ReadFile(to)
		require.NoError(p.t, err)
		require.NoError(p.t, os.WriteFile(filepath.Join(from, name), b, 0o755))
	}
	root, err := filepath.Abs("../..")
	require.NoError(p.t, err)
	_, err = p.Node.Run(p.env(), "make", "-C", root, "-o", "build", "image", "IMAGE="+agentImage, "IMAGE_FROM="+from)
	require.NoError(p.t, err)
}

// confined are options of podman for what deploy/kubernetes gives a container of the agent.
func (p *podman) confined(capabilities string, mounts ...string) []string {
	args := []string{"--cgroup-parent", p.Cgroup, "--network=host", "--pid=host", "--read-only", "--read-only-tmpfs=false",
		"--security-opt=no-new-privileges", "--cap-drop=all", "--cap-add=" + capabilities}
	for _, m := range mounts {
		args = append(args, "--volume="+m)
	}
	return args
}

func TestTheImageThatMakeImageBuildsInstallsThePluginsAndRunsTheAgent(t *testing.T) {
	t.Parallel()
	needPrograms(t, "make", "make")
	dir := ours(t)
	p := newPodman(t, dir, conflist("pods"))
	withOutside(t, p.Node)
	p.buildImage(dir)
	require.Contains(t, p.do("run", "--rm", "--cgroup-parent", p.Cgroup, "--network=none", agentImage, "agent", "--help"), "Usage: cniblocks agent")

	require.NoError(t, p.Do(func() error { return os.MkdirAll("/run/opt/cni/bin", 0o755) }))
	install := append([]string{"run", "--rm"}, p.confined("NET_ADMIN", "/run/opt/cni/bin:/host/opt/cni/bin", "/proc/sys/net:/host/proc/sys/net")...)
	install = append(install, agentImage, "install", "--dir=/host/opt/cni/bin", "--forward=ipv4", "--sysctl-dir=/host/proc/sys/net")
	said := p.do(install...)
	require.Contains(t, said, "installed in /host/opt/cni/bin: ")
	require.Contains(t, p.do(install...), "up to date in /host/opt/cni/bin: ")
	list, err := exec.Command(filepath.Join(dir, "loopback"), "--list").Output()
	require.NoError(t, err)
	for name := range strings.FieldsSeq(string(list)) {
		out, err := p.Node.Run(nil, "/run/opt/cni/bin/"+name, "--list")
		require.NoError(t, err)
		require.Equal(t, string(list), out)
	}
	forward, err := p.Node.Run(nil, "cat", "/proc/sys/net/ipv4/ip_forward")
	require.NoError(t, err)
	require.Equal(t, "1\n", forward)

	p.Write(t, "/run/etc/peers.json", `{"network": ["10.244.0.0/16"], "peers": [
		{"name": "here", "endpoint": "`+node4+`", "pods": ["10.244.1.0/24"]},
		{"name": "there", "endpoint": "`+outside4+`", "pods": ["10.244.2.0/24"]}]}`)
	require.NoError(t, p.Do(func() error { return os.MkdirAll("/run/cniblocks", 0o755) }))
	start := append([]string{"run", "--detach", "--name", "agent"}, p.confined("NET_ADMIN,NET_RAW", "/run/etc:/etc/cniblocks:ro",
		"/run/cniblocks:/run/cniblocks", "/var/lib/cni:/var/lib/cni:ro")...)
	p.do(append(start, "--tmpfs=/var/lib/cniblocks", agentImage, "agent", "--source=file:/etc/cniblocks/peers.json", "--encap=host-gw", "--node=here")...)
	var status string
	if !happens(func() bool {
		status, err = p.try("exec", "agent", "/cniblocks", "status")
		return err == nil
	}) {
		logs, _ := p.try("logs", "agent")
		require.NoError(t, err, "%s", logs)
	}
	require.Contains(t, status, "pods: ready")
	routed := func() bool {
		out, err := p.Node.Run(nil, "ip", "route", "show", "10.244.2.0/24", "proto", "117")
		require.NoError(t, err)
		return strings.Contains(out, "via "+outside4+" ")
	}
	require.True(t, routed())
	p.do("stop", "--time", "60", "agent")
	require.Equal(t, "0", p.do("inspect", "--format", "{{.State.ExitCode}}", "agent"))
	require.True(t, routed(), "what it made stays")
}

// happens waits for what must happen.
func happens(holds func() bool) bool {
	for end := time.Now().Add(endurance); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

//go:build linux

package runtimes_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/test/binaries"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/test/internal/node"
)

const dockerSocket = "/run/docker.sock"

// overEtc lets a node write below /etc, where Docker has a key, and keeps it from the machine's.
func overEtc() error {
	for _, dir := range []string{"/run/etc/upper", "/run/etc/work"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return unix.Mount("overlay", "/etc", "overlay", 0, "lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work")
}

// dockerd starts a Docker daemon on a node, until the end of the test.
func dockerd(t *testing.T, n *node.Node, options ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "dockerd.log"))
	require.NoError(t, err)
	options = append([]string{"--host=unix://" + dockerSocket, "--storage-driver=vfs", "--group=root"}, options...)
	cmd := exec.Command("dockerd", options...)
	cmd.Env = append(os.Environ(), "TMPDIR="+node.Tmp)
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, n.Do(cmd.Start))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(endurance):
			_ = cmd.Process.Kill()
			<-done
		}
		log.Close()
		if b, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("the end of dockerd's log:\n%s", b[max(0, len(b)-4000):])
		}
	})
}

// dockersBridge is what Docker says of its network "bridge", when it is there.
func dockersBridge(t *testing.T, n *node.Node) (options map[string]string, subnets string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (conn net.Conn, err error) {
		err = n.Do(func() error {
			conn, err = new(net.Dialer).DialContext(ctx, "unix", dockerSocket)
			return err
		})
		return conn, err
	}}}
	var answer struct {
		Options map[string]string
		IPAM    struct {
			Config []struct{ Subnet, Gateway string }
		}
	}
	require.True(t, happens(func() bool {
		resp, err := client.Get("http://docker/networks/bridge")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return err == nil && resp.StatusCode == http.StatusOK && json.Unmarshal(b, &answer) == nil
	}), "dockerd does not answer")
	for _, c := range answer.IPAM.Config {
		subnets += c.Subnet + " "
	}
	return answer.Options, strings.TrimSpace(subnets)
}

func TestADockerDaemonWithTheOptionsOfCniblocksEnvHasTheNodesRange(t *testing.T) {
	t.Parallel()
	needPrograms(t, "docker.io iptables", "dockerd", "iptables", "containerd", "runc")
	program, err := binaries.Command()
	require.NoError(t, err)
	const ipv4 = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.7.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"
	const both = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n" +
		"FLANNEL_IPV6_NETWORK=fd00:10:244::/48\nFLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n"
	for name, c := range map[string]struct {
		env     string
		json    bool
		addrs   []string
		subnets string
		mtu     string
		masq    bool // Docker masquerades
	}{
		"both families, on the command line": {both, false, []string{"10.244.1.1/24", "fd00:10:244:1::1/64"}, "10.244.1.0/24 fd00:10:244:1::/64", "1430", false},
		"both families, in daemon.json":      {both, true, []string{"10.244.1.1/24", "fd00:10:244:1::1/64"}, "10.244.1.0/24 fd00:10:244:1::/64", "1430", false},
		"IPv4, which Docker masquerades":     {ipv4, false, []string{"10.244.7.1/24"}, "10.244.7.0/24", "1450", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := node.New(t)
			require.NoError(t, n.Do(overEtc))
			n.Write(t, "/run/flannel/subnet.env", c.env)
			args := []string{"env", "--docker", "--subnet-file", "/run/flannel/subnet.env"}
			var options []string
			config := "/run/daemon.json"
			if c.json {
				out, err := n.Run(nil, program, append(args, "--json")...)
				require.NoError(t, err)
				n.Write(t, config, out)
			} else {
				out, err := n.Run(nil, program, args...)
				require.NoError(t, err)
				options = strings.Fields(out)
				n.Write(t, config, "{}")
			}
			dockerd(t, n, append(options, "--config-file="+config)...)

			told, subnets := dockersBridge(t, n)
			require.Equal(t, c.subnets, subnets)
			require.Equal(t, c.mtu, told["com.docker.network.driver.mtu"])
			h := nstest.Netlink(t, n.Net)
			docker0, err := h.LinkByName("docker0")
			require.NoError(t, err)
			has, err := h.AddrList(docker0, unix.AF_UNSPEC)
			require.NoError(t, err)
			var addrs []string
			for _, a := range has {
				if !a.IP.IsLinkLocalUnicast() {
					addrs = append(addrs, a.IPNet.String())
				}
			}
			require.ElementsMatch(t, c.addrs, addrs)
			rules, err := n.Run(nil, "iptables", "-t", "nat", "-S", "POSTROUTING")
			require.NoError(t, err)
			if c.masq {
				require.Contains(t, rules, "-s "+c.subnets+" ! -o docker0 -j MASQUERADE")
			} else {
				require.NotContains(t, rules, "MASQUERADE")
			}
		})
	}
}

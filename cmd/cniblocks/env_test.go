//go:build linux

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/node"
	"github.com/cniblocks/cniblocks/peer"
)

const dualStackEnv = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n" +
	"FLANNEL_IPV6_NETWORK=fd00:10:244::/48\nFLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n"

func subnetFile(t *testing.T, contents string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "subnet.env")
	require.NoError(t, os.WriteFile(path, []byte(contents), 0o600))
	return path
}

// join writes a node file as the agent does, or as a plugin.
func join(t *testing.T, ns *netns.NS, stateDir, network string, byAgent bool) {
	t.Helper()
	n, problems, err := peer.Parse([]byte(`{"network": ["fd00:10:244::/48", "10.244.0.0/16"], "peers": [{"name": "a", "endpoint": "192.0.2.11",
		"pods": ["10.244.1.0/24", "10.244.9.0/24", "fd00:10:244:1::/64"]}]}`))
	require.NoError(t, err)
	require.Empty(t, problems)
	f := node.File{Self: n.Peers[0], Network: peer.Network{Prefixes: n.Prefixes}}
	if byAgent {
		f.Agent, f.IPMasq, f.MTU = true, true, 1430
	}
	require.NoError(t, node.Write(ns, filepath.Join(stateDir, network, "node.json"), f))
}

func TestEnvIsSubnetEnvWhereverTheNodeIsKnownFrom(t *testing.T) {
	t.Parallel()
	name, ns := nstest.Named(t)
	dir := t.TempDir()
	join(t, ns, dir, "pods", true)
	for _, args := range [][]string{
		{"env", "--subnet-file", subnetFile(t, dualStackEnv)},
		{"env", "pods", "--netns", name, "--state-dir", dir},
		{"env", "--netns", name, "--state-dir", dir},
	} {
		status, out, errs := call(t, args...)
		require.Zero(t, status, errs)
		require.Equal(t, dualStackEnv, out)
		require.Empty(t, errs)
	}
}

func TestEnvPrintsTheOptionsOfADockerDaemon(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ env, options, json string }{
		"dual stack": {dualStackEnv, "--bip=10.244.1.1/24 --ip-masq=false --mtu=1430 --ipv6 --fixed-cidr-v6=fd00:10:244:1::/64",
			`{"bip": "10.244.1.1/24", "ip-masq": false, "mtu": 1430, "ipv6": true, "fixed-cidr-v6": "fd00:10:244:1::/64"}`},
		"IPv4 without masquerading": {"FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.7.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n",
			"--bip=10.244.7.1/24 --ip-masq=true --mtu=1450", `{"bip": "10.244.7.1/24", "ip-masq": true, "mtu": 1450}`},
		"IPv6": {"FLANNEL_IPV6_NETWORK=fd00:10:244::/48\nFLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n",
			"--ip-masq=false --mtu=1430 --ipv6 --fixed-cidr-v6=fd00:10:244:1::/64",
			`{"ip-masq": false, "mtu": 1430, "ipv6": true, "fixed-cidr-v6": "fd00:10:244:1::/64"}`},
	} {
		file := subnetFile(t, c.env)
		status, out, errs := call(t, "env", "--docker", "--subnet-file", file)
		require.Zero(t, status, errs)
		require.Equal(t, c.options+"\n", out, name)
		_, out, _ = call(t, "env", "--docker", "--variable", "DOCKER_OPTS", "--subnet-file", file)
		require.Equal(t, `DOCKER_OPTS="`+c.options+`"`+"\n", out, name)
		_, out, _ = call(t, "env", "--docker", "--json", "--subnet-file", file)
		require.JSONEq(t, c.json, out, name)
		require.True(t, json.Valid([]byte(out)))
	}
	_, out, _ := call(t, "env", "--docker", "--mtu", "1300", "--subnet-file", subnetFile(t, dualStackEnv))
	require.Contains(t, out, " --mtu=1300 ")
}

func TestWithoutAnAgentDockerMasqueradesAndFindsItsMTU(t *testing.T) {
	t.Parallel()
	name, ns := nstest.Named(t)
	dir := t.TempDir()
	join(t, ns, dir, "pods", false)
	at := []string{"env", "pods", "--netns", name, "--state-dir", dir}
	status, out, _ := call(t, append(at, "--docker")...)
	require.Zero(t, status)
	require.Equal(t, "--bip=10.244.1.1/24 --ip-masq=true --ipv6 --fixed-cidr-v6=fd00:10:244:1::/64\n", out)
	status, out, errs := call(t, at...)
	require.Equal(t, failed, status)
	require.Empty(t, out)
	require.Contains(t, errs, "the MTU is not known, since no agent keeps the network; state --mtu")
	status, out, _ = call(t, append(at, "--mtu", "1450")...)
	require.Zero(t, status)
	require.Contains(t, out, "FLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n")
}

func TestEnvSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	name, ns := nstest.Named(t)
	dir, other := t.TempDir(), t.TempDir()
	join(t, ns, dir, "pods", true)
	join(t, ns, dir, "blue", true)
	for says, args := range map[string][]string{
		"this node is in several networks: blue, pods; say which":          {"--netns", name, "--state-dir", dir},
		"red/node.json: no such file or directory; start 'cniblocks agent": {"red", "--netns", name, "--state-dir", dir},
		"no network is known in " + other:                                  {"--netns", name, "--state-dir", other},
		"no network is known in " + other + "/none":                        {"--netns", name, "--state-dir", other + "/none"},
		"subnet.env: no such file or directory":                            {"--subnet-file", other + "/subnet.env"},
		`line 1: key FLANNEL_MTU is "x"; want 68 to 65535 bytes`:           {"--subnet-file", subnetFile(t, "FLANNEL_MTU=x\n")},
		"MTU 70000: want 68 to 65535 bytes":                                {"pods", "--docker", "--mtu", "70000", "--netns", name, "--state-dir", dir},
	} {
		status, out, errs := call(t, append([]string{"env"}, args...)...)
		require.Equal(t, failed, status, says)
		require.Empty(t, out)
		require.Contains(t, errs, says)
	}
	for says, args := range map[string][]string{
		"NETWORK and --subnet-file are both given; want one of them": {"pods", "--subnet-file", "x"},
		"--json and --variable are forms of --docker":                {"--json"},
		"--json and --variable are both given; want one of them":     {"--docker", "--json", "--variable", "X"},
		`"../pods" is no name of a network`:                          {"../pods"},
	} {
		status, _, errs := call(t, append([]string{"env"}, args...)...)
		require.Equal(t, misuse, status, says)
		require.Equal(t, "cniblocks env: "+says+"; 'cniblocks env --help' explains\n", errs)
	}
}

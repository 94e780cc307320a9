//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/agent"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/peer/file"
)

// settled reads options as the agent does.
func settled(t *testing.T, env map[string]string, args ...string) (settings, error) {
	t.Helper()
	o := newOptions("agent", agentText)
	var s settings
	s.declare(o)
	var errs bytes.Buffer
	_, _, done := o.read(args, 0, &errs, &errs)
	require.False(t, done, errs.String())
	err := s.complete(o, func(k string) (string, bool) { v, ok := env[k]; return v, ok })
	if err == nil {
		err = s.check()
	}
	return s, err
}

func TestTheCommandLineCountsBeforeTheEnvironmentAndThatBeforeTheFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "agent.json")
	require.NoError(t, os.WriteFile(path, []byte(`{"source": "file:/a", "network": "one", "node": "n", "mtu": 1300, "ip-masq": "ipv4", "l2": true,
		"node-ip": ["192.0.2.1", "2001:db8::1"], "ip-masq-except": ["192.0.2.0/24"], "resync": "1m", "etcd-password": "from the file"}`), 0o600))
	s, err := settled(t, map[string]string{"CNIBLOCKS_NETWORK": "two", "CNIBLOCKS_NODE": "m", "CNIBLOCKS_CONFIG": path}, "--network", "three")
	require.NoError(t, err)
	require.Equal(t, "three", s.network)
	require.Equal(t, "m", s.node)
	require.Equal(t, "file:/a", s.source)
	require.Equal(t, 1300, s.mtu)
	require.True(t, s.L2)
	require.Equal(t, families{V4: true}, s.ipMasq)
	require.Len(t, s.nodeIP, 2)
	require.Len(t, s.ipMasqExcept, 1)
	require.Equal(t, time.Minute, s.resync)
	require.Equal(t, "from the file", s.etcdPassword)
	s, err = settled(t, map[string]string{"CNIBLOCKS_ETCD_PASSWORD": "from the environment"}, "--config", path)
	require.NoError(t, err)
	require.Equal(t, "from the environment", s.etcdPassword)
}

func TestWhatIsWrongWithAnOptionIsSaidWithItsNameAndValue(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "agent.json")
	for _, c := range []struct {
		args, env, file, want string
	}{
		{want: "--source is missing"},
		{args: "--source file:/a --log-format xml", want: `--log-format is "xml": want text or json`},
		{args: "--source file:/a --ttl 300", want: "--ttl is 300"},
		{args: "--source file:/a --conflist-from /a", want: `--conflist-from is "/a" and --conflist-to is "": state both`},
		{args: "--source file:/a --ip-masq-backend ipchains", want: `--ip-masq-backend is "ipchains": want nftables or iptables`},
		{args: "--source file:/a --vni 16777216", want: "--vni is 16777216: want at most 16777215"},
		{args: "--source file:/a --mtu 10", want: "--mtu: MTU 10: want 68 to 65535 bytes"},
		{args: "--source file:/a --device a:b", want: `--device: interface name "a:b": want at most 15 bytes`},
		{args: "--source file:/a --l2 --bridge averyveryverylongname", want: `--bridge: interface name "averyveryverylongname"`},
		{args: "--config /nowhere", want: "--config: open /nowhere"},
		{args: "--source file:/a", env: "CNIBLOCKS_RESYNC=often", want: `CNIBLOCKS_RESYNC is "often": want TIME between`},
		{args: "--source file:/a", env: "CNIBLOCKS_IP_MASQ_EXCEPT=10.0.0.1/8", want: `CNIBLOCKS_IP_MASQ_EXCEPT is "10.0.0.1/8": 10.0.0.1/8 has host bits; want 10.0.0.0/8`},
		{args: "--source file:/a", env: "CNIBLOCKS_MTU=much", want: `CNIBLOCKS_MTU is "much": want`},
		{file: `{"sauce": "file:/a"}`, want: `there is no key "sauce"; did you mean "source"?`},
		{file: `{"source": {"file": "/a"}}`, want: `key "source": it is {"file": "/a"}: want a string`},
		{file: `{"source": "file:/a", "node-ip": "here"}`, want: `key "node-ip" is "here"`},
		{file: `{"source"`, want: path},
		{args: "--source file:/a --etcd-password-file /nowhere", want: "/nowhere"},
	} {
		args := strings.Fields(c.args)
		if c.file != "" {
			require.NoError(t, os.WriteFile(path, []byte(c.file), 0o600))
			args = append(args, "--config", path)
		}
		key, value, _ := strings.Cut(c.env, "=")
		_, err := settled(t, map[string]string{key: value}, args...)
		require.ErrorContains(t, err, c.want, c)
	}
	for _, c := range []struct{ args, want string }{
		{"--source smoke", `--source is "smoke": want file:PATH, etcd://HOST:PORT or kubernetes`},
		{"--source file:/a", "--encap is missing"},
		{"--source file:/a --encap vxlna", `encap "vxlna"`},
		{"--source file:/a --encap gre --vni 7", "vni"},
		{"--source etcd://127.0.0.1:1 --encap vxlan", "the configuration of the network states it there"},
		{"--source etcd://user:hunter2@127.0.0.1:1", "is not HOST:PORT"},
		{"--resync often", `--resync is "often": want TIME between two looks at everything`},
		{"--node-ip 1.2.3", `--node-ip is "1.2.3": want ADDRESS that other nodes send to`},
		{"--node-ip 192.0.2.1,192.0.2.2", `--node-ip is "192.0.2.1,192.0.2.2": want at most one address of each family`},
		{"--interface [", `--interface is "[": want a regular expression: `},
		{"--gbp=perhaps", `--gbp is "perhaps": want true or false`},
		{"--ip-masq=perhaps", `--ip-masq is "perhaps": want true, false`},
		{"--log-level loud", `--log-level is "loud": want the LEVEL debug, info, warn or error`},
		{"--mtu", "--mtu: want BYTES for pods"},
		{"--source etcd:", "want etcd://HOST:PORT"},
	} {
		status, out, errs := call(t, append([]string{"agent"}, strings.Fields(c.args)...)...)
		require.NotZero(t, status)
		require.Empty(t, out)
		require.Contains(t, errs, c.want)
		require.NotContains(t, errs, "hunter2")
	}
}

// agentHere runs an agent of the network pods by plain routes in a namespace, until end is called; its log is what it returns.
func agentHere(t *testing.T) (name string, ns *netns.NS, state string, end func() (status int, log string)) {
	t.Helper()
	return agentOf(t, "pods")
}

// agentOf is agentHere for a network.
func agentOf(t *testing.T, network string) (name string, ns *netns.NS, state string, end func() (status int, log string)) {
	t.Helper()
	name, ns = nstest.Named(t)
	nstest.Link(t, nstest.End{NS: ns, Name: "eth0", Addrs: []string{"192.0.2.11/24"}}, nstest.End{NS: nstest.New(t), Name: "eth0"})
	dir := t.TempDir()
	peers := filepath.Join(dir, "peers.json")
	require.NoError(t, os.WriteFile(peers, []byte(`{"network": "10.244.0.0/16", "peers": [{"name": "a", "endpoint": "192.0.2.11", "pods": "10.244.1.0/24"},
		{"name": "b", "endpoint": "192.0.2.12", "pods": "10.244.2.0/24"}]}`), 0o600))
	state = filepath.Join(dir, "run")
	status, _, errs := call(t, "status", "--state-dir", state)
	require.Equal(t, failed, status)
	require.Contains(t, errs, "start 'cniblocks agent'")

	ctx, cancel := context.WithCancel(t.Context())
	var log bytes.Buffer
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, []string{"agent", "--network", network, "--source", "file:" + peers, "--encap", "host-gw", "--netns", name, "--state-dir", state, "--data-dir", filepath.Join(dir, "lib"),
			"--listen", "127.0.0.1:0"}, &log, &log)
	}()
	end = sync.OnceValues(func() (int, string) { cancel(); return <-done, log.String() })
	t.Cleanup(func() { _, _ = end() })
	require.Eventually(t, func() bool {
		status, _, _ := call(t, "status", "--state-dir", state)
		return status == 0
	}, 20*time.Second, 10*time.Millisecond)
	return name, ns, state, end
}

func TestAnAgentRunsUntilItIsToldToEndAndItsStatusCanBeAsked(t *testing.T) {
	t.Parallel()
	_, _, state, end := agentHere(t)
	_, out, _ := call(t, "status", "--state-dir", state)
	require.Regexp(t, `(?s)network +pods: ready\nnode +a\nranges +10.244.1.0/24\nendpoints +192.0.2.11\ntunnel +host-gw.*\nmtu +1500\nsource +file:.*up.*peers +2, left out: 0; routes: 1\n`, out)
	_, out, _ = call(t, "status", "pods", "-o", "json", "--state-dir", state)
	var s agent.Status
	require.NoError(t, json.Unmarshal([]byte(out), &s))
	require.True(t, s.Ready)
	status, log := end()
	require.Zero(t, status, log)
	status, _, errs := call(t, "status", "--state-dir", state)
	require.Equal(t, failed, status)
	require.Contains(t, errs, "no agent runs here")
}

func TestWhatAnAgentKeepsIsTakenAwayOnlyWhenItHasEnded(t *testing.T) {
	t.Parallel()
	name, ns, state, end := agentHere(t)
	conf := filepath.Join(t.TempDir(), "conf")
	require.NoError(t, os.WriteFile(conf, []byte(`{"cniVersion": "1.0.0", "name": "pods", "type": "host-gw", "stateDir": "`+state+`", "network": "10.244.0.0/16",
		"peers": [{"name": "a", "endpoint": "192.0.2.11", "pods": "10.244.1.0/24"}], "delegate": {"type": "bridge"}}`), 0o600))
	clean := []string{"cleanup", "--netns", name, "--state-dir", state}
	before := nstest.Dump(ns)
	for _, args := range [][]string{append(clean, "--network", "pods"), append(clean, "--all"), {"overlay", "down", "--conf", conf, "--netns", name},
		{"overlay", "up", "--conf", conf, "--netns", name}} {
		status, out, errs := call(t, args...)
		require.Equal(t, failed, status, out)
		require.Empty(t, out)
		require.Contains(t, errs, fmt.Sprintf(`an agent keeps network "pods" on this node (process %d, it holds %s/pods/agent.lock)`, os.Getpid(), state))
	}
	status, would, errs := call(t, append(clean, "--network", "pods", "--dry-run")...)
	require.Equal(t, failed, status, "as it would without")
	require.Contains(t, would, "would remove  route")
	require.Contains(t, errs, "but not yet: an agent keeps")
	require.Equal(t, before, nstest.Dump(ns))
	status, _, errs = call(t, "status", "--state-dir", state)
	require.Zero(t, status, errs)

	_, _ = end()
	status, did, errs := call(t, append(clean, "--network", "pods")...)
	require.Zero(t, status, errs)
	require.Equal(t, strings.ReplaceAll(would, "would remove", "removed"), did)
	require.NotContains(t, nstest.Dump(ns), "10.244.2.0")
}

func TestOverlayUpOfWhatHasItsPeersFromTheAgentSaysThatThereIsNothingToBringUp(t *testing.T) {
	t.Parallel()
	name, _, state, _ := agentHere(t)
	conf := filepath.Join(t.TempDir(), "conf")
	require.NoError(t, os.WriteFile(conf, []byte(`{"cniVersion": "1.0.0", "name": "pods", "type": "host-gw", "stateDir": "`+state+`", "delegate": {"type": "bridge"}}`), 0o600))
	status, _, errs := call(t, "overlay", "up", "--conf", conf, "--netns", name)
	require.Equal(t, failed, status)
	require.Contains(t, errs, "the node agent keeps the peers; there is nothing to bring up by hand")
}

func TestAnAgentThatStartsWhileCleanupRemovesItsDirectoryKeepsItsSocket(t *testing.T) {
	t.Parallel()
	_, ns, state, end := agentHere(t)
	_, _ = end()
	dir := filepath.Join(state, "pods")
	for _, locked := range []bool{true, false} {
		require.NoError(t, os.MkdirAll(dir, 0o755))
		if !locked {
			require.NoError(t, os.Remove(filepath.Join(dir, "agent.lock")))
		}
		unlock, err := agent.Exclude(state, "pods") // as cleanup does
		require.NoError(t, err)
		a := &agent.Agent{NS: ns, Network: "pods", Name: "a", StateDir: state, DataDir: t.TempDir(), Source: file.Source{Path: "/nowhere"},
			Layout: func(context.Context) (agent.Layout, error) { return agent.Layout{}, nil }}
		said, log := io.Pipe()
		defer said.Close()
		a.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn}))
		begun := make(chan struct{})
		a.Begin = func() error {
			close(begun)
			return errors.New("enough")
		}
		done := make(chan error)
		go func() { done <- a.Run(t.Context()) }()
		line, err := bufio.NewReader(said).ReadString('\n')
		require.NoError(t, err)
		require.Contains(t, line, "waiting for the end of that")
		require.NoError(t, os.RemoveAll(dir))
		select {
		case <-begun:
			require.Fail(t, "it began while its directory was removed")
		default:
		}
		unlock()
		<-begun
		require.ErrorContains(t, <-done, "enough")
		require.FileExists(t, filepath.Join(dir, "agent.lock"), "what it holds is in the directory")
	}
}

func TestSystemdIsToldOnceThatTheAgentIsReadyAndOftenThatItLives(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	defer l.Close()
	env := map[string]string{"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "30"}
	n := newNotifier(func(k string) string { return env[k] })
	next := func() string {
		b := make([]byte, 1000)
		require.NoError(t, l.SetReadDeadline(time.Now().Add(10*time.Second)))
		size, err := l.Read(b)
		require.NoError(t, err)
		return string(b[:size])
	}
	n.alive(false, "waiting\nfor the store")
	require.Equal(t, "STATUS=waiting for the store\nWATCHDOG=1\n", next())
	n.alive(true, "ready")
	require.Equal(t, "READY=1\nSTATUS=ready\nWATCHDOG=1\n", next())
	time.Sleep(time.Millisecond)
	n.alive(true, "ready")
	require.Equal(t, "WATCHDOG=1\n", next())
	n.stopping()
	require.Equal(t, "STOPPING=1\n", next())
	newNotifier(func(string) string { return "" }).alive(true, "nobody listens")
}

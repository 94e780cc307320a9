//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/agent"
	"github.com/cniblocks/cniblocks/internal/nstest"
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
		{args: "--source file:/a --conflist-from /a", want: "state both"},
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
		{"--source etcd:", "want etcd://HOST:PORT"},
	} {
		status, out, errs := call(t, append([]string{"agent"}, strings.Fields(c.args)...)...)
		require.NotZero(t, status)
		require.Empty(t, out)
		require.Contains(t, errs, c.want)
		require.NotContains(t, errs, "hunter2")
	}
}

func TestAnAgentRunsUntilItIsToldToEndAndItsStatusCanBeAsked(t *testing.T) {
	t.Parallel()
	name, ns := nstest.Named(t)
	nstest.Link(t, nstest.End{NS: ns, Name: "eth0", Addrs: []string{"192.0.2.11/24"}}, nstest.End{NS: nstest.New(t), Name: "eth0"})
	dir := t.TempDir()
	peers := filepath.Join(dir, "peers.json")
	require.NoError(t, os.WriteFile(peers, []byte(`{"network": "10.244.0.0/16", "peers": [{"name": "a", "endpoint": "192.0.2.11", "pods": "10.244.1.0/24"},
		{"name": "b", "endpoint": "192.0.2.12", "pods": "10.244.2.0/24"}]}`), 0o600))
	state := filepath.Join(dir, "run")
	status, _, errs := call(t, "status", "--state-dir", state)
	require.Equal(t, failed, status)
	require.Contains(t, errs, "start 'cniblocks agent'")

	ctx, cancel := context.WithCancel(t.Context())
	var log bytes.Buffer
	done := make(chan int)
	go func() {
		done <- run(ctx, []string{"agent", "--source", "file:" + peers, "--encap", "host-gw", "--netns", name, "--state-dir", state, "--data-dir", filepath.Join(dir, "lib"),
			"--listen", "127.0.0.1:0"}, &log, &log)
	}()
	var out string
	require.Eventually(t, func() bool {
		status, out, _ = call(t, "status", "--state-dir", state)
		return status == 0
	}, 20*time.Second, 10*time.Millisecond)
	require.Regexp(t, `(?s)network +pods: ready\nnode +a\nranges +10.244.1.0/24\nendpoints +192.0.2.11\ntunnel +host-gw.*\nmtu +1500\nsource +file:.*up.*peers +2, left out: 0; routes: 1\n`, out)
	_, out, _ = call(t, "status", "pods", "-o", "json", "--state-dir", state)
	var s agent.Status
	require.NoError(t, json.Unmarshal([]byte(out), &s))
	require.True(t, s.Ready)
	cancel()
	require.Zero(t, <-done, log.String())
	status, _, errs = call(t, "status", "--state-dir", state)
	require.Equal(t, failed, status)
	require.Contains(t, errs, "no agent runs here")
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

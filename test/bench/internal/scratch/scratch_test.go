//go:build linux

package scratch

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

func TestMain(m *testing.M) {
	// As Enter does, which a test cannot call.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	nstest.Main(m)
}

// plugin writes a shell script that plays a plugin, and returns its directory.
func plugin(t *testing.T, name, script string) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o755))
	return dir
}

// The one test of this package that waits for children: others would take them away from it.
func TestCallsAreMeasuredWithWhatTheyLeaveInTheBackground(t *testing.T) {
	nstest.NeedRoot(t)
	w, err := NewWorld()
	require.NoError(t, err)
	defer w.Close()

	dir := plugin(t, "slow", `sleep 0.3 </dev/null >/dev/null 2>&1 & cat; echo "$CNI_COMMAND $CNI_PATH"`)
	out, cost, err := w.Exec(Call{Bin: dir, Type: "slow", Verb: "DEL", Conf: []byte("conf ")})
	require.NoError(t, err)
	require.Equal(t, "conf DEL "+dir+"\n", string(out))
	require.Equal(t, cost.Wall, cost.Settled, "nobody waited yet")
	cost.Settle()
	require.Greater(t, cost.Settled, cost.Wall)

	links := plugin(t, "links", "ls /sys/class/net >/dev/null; ip -o link show dev "+Uplink+" >/dev/null && echo here")
	outs, cost, err := w.ExecAll([]Call{{Bin: links, Type: "links"}, {Bin: links, Type: "links"}, {Bin: links, Type: "links"}}, 2)
	require.NoError(t, err)
	require.Equal(t, [][]byte{[]byte("here\n"), []byte("here\n"), []byte("here\n")}, outs)
	require.Positive(t, cost.CPU)

	failing := plugin(t, "failing", `echo '{"code":11,"msg":"no address is free"}'; exit 1`)
	_, _, err = w.Exec(Call{Bin: failing, Type: "failing", Verb: "ADD"})
	require.ErrorContains(t, err, "code 11: no address is free")
	_, _, err = w.ExecAll([]Call{{Bin: failing, Type: "failing", Verb: "ADD"}}, 1)
	require.ErrorContains(t, err, "no address is free")
}

func TestNodeReachesTheOutsideOverBothFamilies(t *testing.T) {
	t.Parallel()
	nstest.NeedRoot(t)
	w, err := NewWorld()
	require.NoError(t, err)
	defer w.Close()
	node := &Pod{ns: w.Node}
	for _, dst := range OutsideAddrs {
		_, _, err := node.Ping(dst.Addr(), replyTimeout)
		require.NoError(t, err)
	}
}

func TestResultThatIsNotTrueIsNoticed(t *testing.T) {
	t.Parallel()
	nstest.NeedRoot(t)
	w, err := NewWorld()
	require.NoError(t, err)
	defer w.Close()
	pod := &Pod{ns: nstest.New(t)}
	out := []byte(`{"interfaces":[{"name":"cb0"},{"name":"veth1"},{"name":"eth0","sandbox":"/x"}],
		"ips":[{"address":"10.88.0.2/16","gateway":"10.88.0.1","interface":2}]}`)
	a, err := ParseResult(w, pod, t.TempDir(), "cb0", out)
	require.NoError(t, err)
	require.Equal(t, []string{"veth1"}, a.Host)
	require.Equal(t, netip.MustParsePrefix("10.88.0.2/16"), a.IPs[0].Address)

	_, err = a.Works(false)
	require.ErrorContains(t, err, "link eth0")
	require.NoError(t, a.Gone())
	require.NoError(t, os.WriteFile(filepath.Join(a.Leases, "10.88.0.2"), nil, 0o600))
	require.ErrorContains(t, a.Gone(), "10.88.0.2")

	_, err = ParseResult(w, pod, "", "cb0", []byte(`{}`))
	require.ErrorContains(t, err, "no address")
}

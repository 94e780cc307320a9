package cni_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/cni"
)

// executed is a plugin of a shell script.
func executed(t *testing.T, text string) cni.Plugin {
	t.Helper()
	return cni.Exec(script(t, t.TempDir(), "plugin", text))
}

func TestAnExecutedPluginGetsTheWholeRequest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := executed(t, `env | grep ^CNI_ | sort > `+dir+`/env.$CNI_COMMAND; cat > `+dir+`/in.$CNI_COMMAND
[ $CNI_COMMAND = ADD ] && echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.2/24"}]}'; exit 0`)
	r := request(t, cni.ADD, netconf, "CNI_ARGS=A=1", "CNI_PATH=/a:/b")
	res, err := p.Add(t.Context(), r)
	require.NoError(t, err)
	require.Equal(t, prefix("10.0.0.2/24"), res.IPs[0].Address)
	for verb, call := range map[string]func(context.Context, *cni.Request) error{"DEL": p.Del, "CHECK": p.Check, "STATUS": p.Status, "GC": p.GC} {
		require.NoError(t, call(t.Context(), r), verb)
	}
	for _, verb := range []string{"ADD", "DEL", "CHECK", "STATUS", "GC"} {
		env, err := os.ReadFile(filepath.Join(dir, "env."+verb))
		require.NoError(t, err)
		require.Equal(t, "CNI_ARGS=A=1\nCNI_COMMAND="+verb+"\nCNI_CONTAINERID=c1\nCNI_IFNAME=eth0\nCNI_NETNS=/run/netns/c1\nCNI_PATH=/a:/b\n", string(env))
		in, err := os.ReadFile(filepath.Join(dir, "in."+verb))
		require.NoError(t, err)
		require.Equal(t, netconf, string(in))
	}
}

func TestAnExecutedPluginIsNotAskedWhatItsVersionDoesNotHave(t *testing.T) {
	t.Parallel()
	p := executed(t, "exit 1")
	old := request(t, cni.DEL, `{"cniVersion": "0.3.1", "name": "net"}`)
	require.NoError(t, p.Check(t.Context(), old))
	for _, version := range []string{"0.3.1", "1.0.0"} {
		r := request(t, cni.DEL, `{"cniVersion": "`+version+`", "name": "net"}`)
		require.NoError(t, p.Status(t.Context(), r))
		require.NoError(t, p.GC(t.Context(), r))
	}
	require.Error(t, p.Del(t.Context(), old))
}

func TestAPluginOlderThanTheVerbIsPassedOver(t *testing.T) {
	t.Parallel()
	r := request(t, cni.DEL, netconf)
	p := executed(t, `echo '{"cniVersion": "1.1.0", "code": 4, "msg": "unknown CNI_COMMAND: '$CNI_COMMAND'"}'; exit 1`)
	require.NoError(t, p.Status(t.Context(), r))
	require.NoError(t, p.GC(t.Context(), r))
	require.Equal(t, cni.ErrEnvironment, cni.CodeOf(p.Check(t.Context(), r)))
	require.Equal(t, cni.ErrEnvironment, cni.CodeOf(p.Del(t.Context(), r)))
}

func TestTheErrorOfAnExecutedPluginComesThrough(t *testing.T) {
	t.Parallel()
	r := request(t, cni.ADD, netconf)
	for _, c := range []struct {
		does string
		code cni.Code
		says string
	}{
		{`echo '{"code": 11, "msg": "full", "details": "10.0.0.0/24"}'; exit 1`, cni.ErrTryAgain, "plugin: full; 10.0.0.0/24"},
		{`echo '{"code": 0, "msg": "no code"}'; exit 1`, cni.ErrIO, "plugin: no code"},
		{`echo '{"code": 123456, "msg": "own code"}'; exit 1`, 123456, "plugin: own code"},
		{`echo '{"code": "7", "msg": "a string"}'; exit 1`, cni.ErrIO, `failed its ADD (exit status 1): {"code": "7"`},
		{`echo '{"code": 7}'; exit 1`, cni.ErrIO, "failed its ADD"},
		{`echo out; echo err >&2; exit 3`, cni.ErrIO, "failed its ADD (exit status 3): out\n err"},
		{`exit 1`, cni.ErrIO, "failed its ADD (exit status 1): it printed nothing"},
		{`kill -9 $$`, cni.ErrIO, "failed its ADD (signal: killed): it printed nothing"},
		{`printf '\377\376\000'; exit 1`, cni.ErrIO, "failed its ADD"},
		{`head -c 100000 /dev/zero | tr '\0' x; exit 1`, cni.ErrIO, "xxx ..."},
		{``, cni.ErrDecode, "answered ADD with no valid result: result: unexpected end of JSON input"},
		{`echo garbage`, cni.ErrDecode, "answered ADD with no valid result"},
		{`echo '[]'`, cni.ErrDecode, "answered ADD with no valid result"},
		{`echo '{"cniVersion": "9.0"}'`, cni.ErrVersion, `cniVersion "9.0"`},
		{`echo '{"cniVersion": "1.0.0", "ips": [{"address": "nonsense"}]}'`, cni.ErrDecode, `address "nonsense" is no prefix`},
	} {
		res, err := executed(t, c.does).Add(t.Context(), r)
		require.Nil(t, res)
		require.ErrorContains(t, err, c.says)
		require.Equal(t, c.code, cni.CodeOf(err), c.does)
		require.Less(t, len(err.Error()), 3000)
		require.NotContains(t, err.Error(), "prevResult")
	}
	_, err := cni.Exec("/nowhere/plugin").Add(t.Context(), r)
	require.ErrorIs(t, err, unix.ENOENT)
}

func TestAResultWithoutAVersionIsInThatOfTheConfiguration(t *testing.T) {
	t.Parallel()
	r := request(t, cni.ADD, `{"cniVersion": "0.2.0", "name": "net"}`)
	res, err := executed(t, `echo '{"ip4": {"ip": "10.0.0.2/24", "gateway": "10.0.0.1"}}'`).Add(t.Context(), r)
	require.NoError(t, err)
	require.Equal(t, []cni.IP{{Address: prefix("10.0.0.2/24"), Gateway: ip("10.0.0.1"), Interface: cni.NoInterface}}, res.IPs)
}

func TestAPluginThatNeverStopsTalkingIsKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := request(t, cni.ADD, netconf)
	_, err := executed(t, `echo $$ > `+dir+`/pid; exec cat /dev/zero`).Add(t.Context(), r)
	require.ErrorContains(t, err, "printed more than 1048576 bytes and was killed")
	require.Equal(t, cni.ErrIO, cni.CodeOf(err))
	require.True(t, gone(t, dir+"/pid"))
	res, err := executed(t, `head -c 3000000 /dev/zero >&2; echo '{"cniVersion": "1.1.0"}'`).Add(t.Context(), r)
	require.NoError(t, err, "what it says to standard error is dropped and keeps nothing from working")
	require.Empty(t, res.IPs)
}

func TestAPluginThatNeverEndsIsKilledWhenTheContextEnds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := executed(t, `echo $$ > `+dir+`/pid; exec sleep 1000`).Add(ctx, request(t, cni.ADD, netconf))
		done <- err
	}()
	require.Eventually(t, func() bool { b, err := os.ReadFile(dir + "/pid"); return err == nil && len(b) > 1 }, 10*time.Second, 5*time.Millisecond)
	cancel()
	err := <-done
	require.Equal(t, cni.ErrTryAgain, cni.CodeOf(err))
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "plugin plugin did not finish its ADD in time")
	require.True(t, gone(t, dir+"/pid"))
}

func TestAGrandchildThatKeepsThePipesOpenKeepsNobody(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	res, err := executed(t, `sleep 1000 & echo $! > `+dir+`/pid; echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.2/24"}]}'`).
		Add(t.Context(), request(t, cni.ADD, netconf))
	t.Cleanup(func() {
		b, err := os.ReadFile(dir + "/pid")
		require.NoError(t, err)
		pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
		require.NoError(t, err)
		require.NoError(t, unix.Kill(pid, unix.SIGKILL))
	})
	require.NoError(t, err)
	require.Len(t, res.IPs, 1)
}

// gone reports whether the process of that file ended.
func gone(t *testing.T, file string) bool {
	t.Helper()
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	require.NoError(t, err)
	_, err = os.Stat(fmt.Sprintf("/proc/%d", pid))
	return os.IsNotExist(err)
}

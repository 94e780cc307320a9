package loopback_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/plugins/loopback"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func newPod(t *testing.T) *netns.NS {
	t.Helper()
	nstest.NeedRoot(t)
	pod, err := netns.New() // unlike those of nstest, with lo down
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pod.Close()) })
	return pod
}

func path(ns *netns.NS) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd()) }

func call(t *testing.T, verb cni.Verb, ns, conf string) (status int, out []byte) {
	t.Helper()
	env := map[string]string{"CNI_COMMAND": string(verb), "CNI_CONTAINERID": "c1", "CNI_NETNS": ns, "CNI_IFNAME": "eth7", "CNI_PATH": "/nowhere"}
	var stdout, stderr bytes.Buffer
	status = cni.Run(t.Context(), loopback.Plugin{}, nil, func(k string) string { return env[k] }, strings.NewReader(conf), &stdout, &stderr)
	return status, stdout.Bytes()
}

func isUp(t *testing.T, ns *netns.NS) bool {
	t.Helper()
	l, err := nstest.Netlink(t, ns).LinkByName("lo")
	require.NoError(t, err)
	return l.Attrs().RawFlags&unix.IFF_UP != 0
}

const conf = `{"cniVersion": "1.1.0", "name": "lo-net", "type": "loopback", "cni.dev/valid-attachments": []}`

func TestLoIsSetUpWhateverTheInterfaceIsCalled(t *testing.T) {
	t.Parallel()
	for _, version := range cni.Versions {
		pod := newPod(t)
		require.False(t, isUp(t, pod))
		status, out := call(t, cni.ADD, path(pod), strings.ReplaceAll(conf, "1.1.0", version))
		require.Zero(t, status, "%s", out)
		require.True(t, isUp(t, pod))
		res, err := cni.ParseResult(out)
		require.NoError(t, err)
		require.Len(t, res.IPs, 2)
		require.Equal(t, "127.0.0.1/8", res.IPs[0].Address.String())
		require.Equal(t, "::1/128", res.IPs[1].Address.String())
		if version >= "0.3.0" {
			require.Equal(t, []cni.Interface{{Name: "lo", MAC: "00:00:00:00:00:00", Sandbox: path(pod)}}, res.Interfaces)
			require.Equal(t, []int{0, 0}, []int{res.IPs[0].Interface, res.IPs[1].Interface})
		}
		status, out = call(t, cni.ADD, path(pod), strings.ReplaceAll(conf, "1.1.0", version))
		require.Zero(t, status, "again: %s", out)
	}
}

func TestAPrevResultIsPassedOn(t *testing.T) {
	t.Parallel()
	pod := newPod(t)
	const prev = `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","mtu":1400,"sandbox":"/x"}],"ips":[{"interface":0,"address":"10.0.0.2/24"}]}`
	status, out := call(t, cni.ADD, path(pod), strings.TrimSuffix(conf, "}")+`, "prevResult": `+prev+`}`)
	require.Zero(t, status, "%s", out)
	require.JSONEq(t, prev, string(out))
	require.True(t, isUp(t, pod))
}

func TestCheckFailsWhileLoIsDown(t *testing.T) {
	t.Parallel()
	pod := newPod(t)
	status, out := call(t, cni.CHECK, path(pod), conf)
	require.Equal(t, 1, status)
	require.Contains(t, string(out), "interface lo in "+path(pod)+" is down")
	_, added := call(t, cni.ADD, path(pod), conf)
	status, out = call(t, cni.CHECK, path(pod), strings.TrimSuffix(conf, "}")+`, "prevResult": `+string(added)+`}`)
	require.Zero(t, status, "%s", out)
}

func TestDelLeavesLoUpForOtherNetworksAndNeedsNoNamespace(t *testing.T) {
	t.Parallel()
	pod := newPod(t)
	_, _ = call(t, cni.ADD, path(pod), conf)
	for _, ns := range []string{path(pod), "", "/run/netns/not-there", "/etc/passwd"} {
		status, out := call(t, cni.DEL, ns, conf)
		require.Zero(t, status, "%s", out)
		require.Empty(t, out)
	}
	require.True(t, isUp(t, pod))
}

func TestStatusAndGCAreWell(t *testing.T) {
	t.Parallel()
	for _, verb := range []cni.Verb{cni.STATUS, cni.GC} {
		status, out := call(t, verb, "", conf)
		require.Zero(t, status, "%s", out)
	}
}

func TestANamespaceThatIsNoneIsAClearError(t *testing.T) {
	t.Parallel()
	nstest.NeedRoot(t)
	for ns, want := range map[string]cni.Code{"/run/netns/not-there": cni.ErrUnknownContainer, "/etc/passwd": cni.ErrEnvironment, "/dev/zero": cni.ErrEnvironment} {
		for _, verb := range []cni.Verb{cni.ADD, cni.CHECK} {
			status, out := call(t, verb, ns, conf)
			require.Equal(t, 1, status)
			var e struct {
				Code cni.Code
				Msg  string
			}
			require.NoError(t, json.Unmarshal(out, &e))
			require.Equal(t, want, e.Code)
			require.Contains(t, e.Msg, "CNI_NETNS: ")
			require.Contains(t, e.Msg, ns)
		}
	}
}

func TestWhatNobodyReadsKeepsNothingFromWorking(t *testing.T) {
	t.Parallel()
	pod := newPod(t)
	for _, verb := range []cni.Verb{cni.ADD, cni.CHECK, cni.DEL} {
		env := map[string]string{"CNI_COMMAND": string(verb), "CNI_CONTAINERID": "c1", "CNI_NETNS": path(pod), "CNI_IFNAME": "lo",
			"CNI_PATH": "/nowhere", "CNI_ARGS": "none"}
		var out, errs bytes.Buffer
		require.Zero(t, cni.Run(t.Context(), loopback.Plugin{}, nil, func(k string) string { return env[k] }, strings.NewReader(conf), &out, &errs), errs.String())
	}
}

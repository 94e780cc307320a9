//go:build linux

package cni_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

func TestTheNamespacesOfARequestAreThoseOfNodeAndContainer(t *testing.T) {
	t.Parallel()
	node, pod := nstest.New(t), nstest.New(t)
	at := fmt.Sprintf("CNI_NETNS=/proc/%d/fd/%d", os.Getpid(), pod.Fd())
	require.NoError(t, node.Do(func() error {
		for _, verb := range []cni.Verb{cni.ADD, cni.CHECK, cni.DEL, cni.GC, cni.STATUS} {
			n, p, err := request(t, verb, netconf, at).Namespaces()
			require.NoError(t, err)
			require.True(t, n.Same(node))
			if verb == cni.ADD || verb == cni.CHECK {
				require.True(t, p.Same(pod))
			} else {
				require.Nil(t, p)
			}
			require.NoError(t, p.Close())
			require.NoError(t, n.Close())
		}
		for changed, code := range map[string]cni.Code{"CNI_NETNS=/run/netns/not-there": cni.ErrUnknownContainer, "CNI_NETNS=/etc/passwd": cni.ErrEnvironment,
			"CNI_NETNS=/proc/thread-self/ns/net": cni.ErrEnvironment} {
			n, p, err := request(t, cni.ADD, netconf, changed).Namespaces()
			require.Equal(t, code, cni.CodeOf(err), changed)
			require.ErrorContains(t, err, "CNI_NETNS")
			require.Nil(t, n)
			require.Nil(t, p)
		}
		for value, taken := range map[string]bool{"1": true, "true": true, "TRUE": true, "0": false, "yes": false, "": false} {
			n, p, err := request(t, cni.ADD, netconf, "CNI_NETNS=/proc/thread-self/ns/net", "CNI_NETNS_OVERRIDE="+value).Namespaces()
			require.Equal(t, taken, err == nil, "%s: %v", value, err)
			if taken {
				require.True(t, p.Same(n), "the node's own, if it is to be")
				require.NoError(t, p.Close())
				require.NoError(t, n.Close())
			}
		}
		return nil
	}))
}

func TestNamespacesThatAreLentAreNotOpenedAgain(t *testing.T) {
	t.Parallel()
	node, pod := nstest.New(t), nstest.New(t)
	at := fmt.Sprintf("CNI_NETNS=/proc/%d/fd/%d", os.Getpid(), pod.Fd())
	r := request(t, cni.ADD, netconf, at)
	r.Lend(node, pod)
	n, p, err := r.Namespaces()
	require.NoError(t, err)
	require.Same(t, node, n)
	require.Same(t, pod, p)
	require.NoError(t, n.Close())
	require.NoError(t, p.Close())

	to, err := r.With(cni.DEL, nil)
	require.NoError(t, err)
	n, p, err = to.Namespaces()
	require.NoError(t, err)
	require.Same(t, node, n)
	require.Nil(t, p)
	require.NoError(t, n.Close())
	_, err = node.Cookie()
	require.NoError(t, err, "the lender's are open still")

	r.NetNS = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), node.Fd())
	n, p, err = r.Namespaces()
	require.NoError(t, err)
	require.True(t, p.Same(node), "another path is another namespace")
	require.NoError(t, p.Close())
	require.NoError(t, n.Close())
}

func TestPrevIPsAreThoseOfTheInterfaceThatIsAskedAbout(t *testing.T) {
	t.Parallel()
	r := request(t, cni.CHECK, `{"cniVersion": "1.0.0", "name": "net", "prevResult": {"interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "/x"},
		{"name": "eth1", "sandbox": "/x"}], "ips": [{"address": "10.0.0.1/24", "interface": 1}, {"address": "10.0.0.2/24", "interface": 2},
		{"address": "10.0.0.3/24"}, {"address": "10.0.0.4/24", "interface": 0}]}}`)
	var got []string
	for _, ip := range r.PrevIPs() {
		got = append(got, ip.Address.String())
	}
	require.Equal(t, []string{"10.0.0.1/24", "10.0.0.3/24"}, got)
	require.Empty(t, request(t, cni.CHECK, netconf).PrevIPs())
}

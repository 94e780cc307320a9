//go:build linux

package kube_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/kubetest"
	"github.com/cniblocks/cniblocks/internal/test/reference"
)

// dualStack is a kustomization of the base for pods of both families, with an image of another name.
const dualStack = `
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [%s]
images: [{name: cniblocks/cniblocks, newName: cniblocks/cniblocks, newTag: latest}]
patches:
- patch: |
    apiVersion: v1
    kind: ConfigMap
    metadata: {name: cniblocks, namespace: cniblocks}
    data:
      net-conf.json: '{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:10:244::/48", "Backend": {"Type": "vxlan"}}'
- target: {kind: DaemonSet, name: cniblocks}
  patch: '[{"op": "add", "path": "/spec/template/spec/initContainers/0/command/-", "value": "--forward=ipv4,ipv6"}]'
`

func TestInADualStackClusterOnContainerd2PodsTalkAndNodesAreReadyWithTheirAgents(t *testing.T) {
	t.Parallel()
	needPrograms(t)
	_, err := kubetest.Binaries()
	require.NoError(t, err)
	containerd, err := reference.Containerd()
	require.NoError(t, err)
	s := &story{cluster: newCluster(t, options{images: images(t), plugins: []string{"portmap"}, containerd: containerd, dual: true})}
	s.n1 = s.newMachine("n1", "192.0.2.1")
	s.n2 = s.newMachine("n2", "192.0.2.2")

	dir := t.TempDir()
	here, err := filepath.Abs(manifests)
	require.NoError(t, err)
	base, err := filepath.Rel(dir, here)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "kustomization.yaml"), fmt.Appendf(nil, dualStack, base), 0o644))
	s.kubectl("apply", "-k", dir)
	for _, m := range []*machine{s.n1, s.n2} {
		s.ready(m)
		annotations := s.kubectl("get", "node", m.name, "-o", "jsonpath={.metadata.annotations}")
		require.Contains(t, annotations, `"flannel.alpha.coreos.com/public-ipv6":"`+six(m.ip.String())+`"`)
		require.Contains(t, annotations, `backend-v6-data`)
		require.Contains(t, m.read("/run/flannel/subnet.env"), "FLANNEL_IPV6_SUBNET=fd00:10:244:")
	}
	s.run("one", s.n1, "")
	s.run("two", s.n2, "")
	s.talk("one", "two")
	for from, to := range map[string]string{"one": "two", "two": "one"} {
		ips := strings.Fields(s.kubectl("get", "pod", to, "-o", "jsonpath={.status.podIPs[*].ip}"))
		require.Len(t, ips, 2)
		require.Contains(t, ips[1], "fd00:10:244:")
		s.kubectl("exec", from, "--", "ping", "-c", "1", "-W", "5", ips[1])
		page, err := s.pageOf(from, ips[1])
		require.NoError(t, err)
		require.Equal(t, "hello", page)
	}
	s.nodesAreReadyWithTheirAgentsAlone("one", "two")
}

//go:build linux

package kube_test

import (
	"encoding/json"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
)

// nodesAreReadyWithTheirAgentsAlone takes the agents away, and what they wrote, as a boot does. It needs a containerd that
// asks plugins for their STATUS, which is 2.
func (s *story) nodesAreReadyWithTheirAgentsAlone(from, to string) {
	nodes := []*machine{s.n1, s.n2}
	for _, m := range nodes {
		require.Equal(s.t, cni.Code(0), m.pluginStatus().Code)
	}
	s.kubectl("-n", "cniblocks", "patch", "daemonset", "cniblocks", "--type=merge", "-p", `{"spec": {"template": {"spec": {"nodeSelector": {"none": "has-this"}}}}}`)
	for _, m := range nodes {
		s.eventually(m.name+": has no agent", func() bool { return m.agent() == "" })
		s.stays(m)
		_, err := m.Run(nil, "rm", "-r", "/run/cniblocks")
		require.NoError(s.t, err)
	}
	for _, m := range nodes {
		s.eventually(m.name+": is not ready, for want of an agent", func() bool {
			status, reason := s.condition(m.name, "Ready")
			return status == "False" && reason == "KubeletNotReady"
		})
		message := s.kubectl("get", "node", m.name, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].message}`)
		s.t.Logf("%s: %s", m.name, message)
		said := m.pluginStatus()
		require.Equal(s.t, cni.ErrNotAvailable, said.Code)
		require.Contains(s.t, message, said.Msg)
		require.Contains(s.t, message, "the node agent has not written /run/cniblocks/pods/node.json yet; start 'cniblocks agent'")
		require.NotEmpty(s.t, m.read(conflist), "it has one all the same")
	}
	s.talk(from, to)
	s.kubectl("-n", "cniblocks", "patch", "daemonset", "cniblocks", "--type=merge", "-p", `{"spec": {"template": {"spec": {"nodeSelector": {"none": null}}}}}`)
	for _, m := range nodes {
		s.ready(m)
		require.Equal(s.t, cni.Code(0), m.pluginStatus().Code)
	}
	s.talk(from, to)
}

// stays proves that a node is ready, still.
func (s *story) stays(m *machine) {
	s.t.Helper()
	status, _ := s.condition(m.name, "Ready")
	require.Equal(s.t, "True", status, m.name)
}

// answer is what a plugin says that fails (CNI specification, section 5).
type answer struct {
	Code cni.Code
	Msg  string
}

// pluginStatus asks our plugin of the node's conflist for its STATUS.
func (m *machine) pluginStatus() (a answer) {
	t := m.c.t
	t.Helper()
	var list struct{ Plugins []map[string]any }
	require.NoError(t, json.Unmarshal([]byte(m.read(conflist)), &list))
	conf := list.Plugins[0]
	conf["cniVersion"], conf["name"] = "1.1.0", "pods"
	b, err := json.Marshal(conf)
	require.NoError(t, err)
	out, err := m.Run([]string{"CNI_COMMAND=STATUS", "CNI_PATH=/opt/cni/bin"}, "sh", "-c", `echo "$1" | /opt/cni/bin/overlay`, "sh", string(b))
	if strings.TrimSpace(out) == "" {
		require.NoError(t, err)
		return answer{}
	}
	require.NoError(t, json.Unmarshal([]byte(out), &a), out)
	return a
}

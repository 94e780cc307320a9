//go:build linux

package foreign

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func TestADeviceIsItsMakersByTheFirstNameThatFits(t *testing.T) {
	t.Parallel()
	for device, maker := range map[string]string{"docker0": "Docker", "cni-podman0": "the reference bridge plugin, for podman", "cni0": "the reference bridge plugin",
		"flannel.1": "flannel", "vxlan_sys_4789": "Open vSwitch", "kube-bridge": "kube-router", "eth0": "", "": ""} {
		require.Equal(t, maker, Maker(device), device)
	}
}

//go:build linux

package kube_test

import (
	"os/exec"
	"testing"

	"github.com/cniblocks/cniblocks/internal/test/binaries"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/test/internal/node"
)

func TestMain(m *testing.M) {
	node.Init()
	nstest.Main(m, binaries.Remove, removeArchives)
}

// needPrograms skips the test where a program is missing; what names are Debian's and Ubuntu's packages.
func needPrograms(t *testing.T) {
	t.Helper()
	node.NeedRealRoot(t)
	for program, pkg := range map[string]string{
		"etcd": "etcd-server", "containerd": "containerd", "ctr": "containerd", "runc": "runc", "iptables": "iptables",
	} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("lane: %v; apt-get install %s", err, pkg)
		}
	}
}

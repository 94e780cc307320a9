//go:build linux

package kube_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/binaries"
	"github.com/cniblocks/cniblocks/internal/kubetest"
	"github.com/cniblocks/cniblocks/test/internal/image"
)

const (
	busyboxImage = "cniblocks.test/busybox:1"
	agentImage   = "docker.io/cniblocks/cniblocks:latest" // as containerd calls that of the manifest
	manifests    = "../../deploy/kubernetes"
)

// images are archives of what runs in the cluster: busybox, and the agent's image as deploy/kubernetes/Dockerfile has it.
func images(t *testing.T) []string {
	t.Helper()
	busybox, err := image.Busybox()
	if err != nil {
		t.Skipf("lane: %v; apt-get install busybox-static", err)
	}
	dir := t.TempDir()
	pods, agent := filepath.Join(dir, "pods.tar"), filepath.Join(dir, "agent.tar")
	require.NoError(t, image.Write(pods, busyboxImage, busybox))
	bin, err := binaries.Build()
	require.NoError(t, err)
	program := filepath.Join(dir, "cniblocks")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "github.com/cniblocks/cniblocks/cmd/cniblocks")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, image.WritePrograms(agent, agentImage, "cniblocks", map[string]string{
		"cniblocks": program, "cniblocks-plugins": filepath.Join(bin, "loopback"),
	}))
	return []string{pods, agent}
}

func TestAClusterFromItsManifestToItsLastNode(t *testing.T) {
	t.Parallel()
	needPrograms(t)
	_, err := kubetest.Binaries()
	require.NoError(t, err)
	s := &story{cluster: newCluster(t, false, images(t)...)}
	s.n1 = s.newMachine("n1", "192.0.2.1")
	s.n2 = s.newMachine("n2", "192.0.2.2")

	s.nodesAreNotReadyWithoutTheAgent()
	s.theManifestMakesThemReady()
	s.theAgentHasTheRightsThatItNeedsAndNoMore()
	s.podsOfDifferentNodesTalk()
	s.hostPortsAndServicesWork()
	s.aRestartedAPIServerCostsNoRouteAndNoPacket()
	s.aNodeThatIsAddedTakesPart()
	s.aNodeThatVanishedWhileAnAgentWasDownIsForgottenAtItsStart()
	s.anAgentDoesNotRunBesideAFlanneld()
	s.podsGoWithoutATrace()
}

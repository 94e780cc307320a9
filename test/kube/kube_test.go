//go:build linux

package kube_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/binaries"
	"github.com/cniblocks/cniblocks/internal/test/kubetest"
	"github.com/cniblocks/cniblocks/test/internal/image"
)

const (
	busyboxImage = "cniblocks.test/busybox:1"
	agentImage   = "docker.io/cniblocks/cniblocks:latest" // as containerd calls that of the manifest
	manifests    = "../../deploy/kubernetes"
)

// archives are made once for all clusters; TestMain removes them.
var archives struct {
	once sync.Once
	dir  string
	err  error
}

func removeArchives() {
	if archives.dir != "" {
		os.RemoveAll(archives.dir)
	}
}

// images are archives of what runs in the cluster: busybox, and the agent's image as deploy/kubernetes/Dockerfile has it.
func images(t *testing.T) []string {
	t.Helper()
	busybox, err := image.Busybox()
	if err != nil {
		t.Skipf("lane: %v; apt-get install busybox-static", err)
	}
	archives.once.Do(func() { archives.dir, archives.err = makeArchives(busybox) })
	require.NoError(t, archives.err)
	return []string{filepath.Join(archives.dir, "pods.tar"), filepath.Join(archives.dir, "agent.tar")}
}

func makeArchives(busybox string) (dir string, err error) {
	if dir, err = os.MkdirTemp("", "cniblocks-images-"); err != nil {
		return "", err
	}
	bin, err := binaries.Build()
	if err != nil {
		return dir, err
	}
	program, err := binaries.Command()
	if err != nil {
		return dir, err
	}
	return dir, errors.Join(
		image.Write(filepath.Join(dir, "pods.tar"), busyboxImage, busybox),
		image.WritePrograms(filepath.Join(dir, "agent.tar"), agentImage, "cniblocks", map[string]string{
			"cniblocks": program, "cniblocks-plugins": filepath.Join(bin, "loopback"),
		}),
	)
}

func TestAClusterFromItsManifestToItsLastNode(t *testing.T) {
	t.Parallel()
	needPrograms(t)
	_, err := kubetest.Binaries()
	require.NoError(t, err)
	s := &story{cluster: newCluster(t, options{images: images(t), plugins: []string{"portmap"}})}
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

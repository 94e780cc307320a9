package main

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestThePluginsLinkNoSecondNetlinkLibraryAndNoCurvesThatTheyDoNotUse(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	require.NoError(t, err)
	deps := strings.Fields(string(out))
	require.Contains(t, deps, "github.com/cniblocks/cniblocks/internal/kernel/wg")
	for _, dep := range deps {
		for _, heavy := range []string{"golang.zx2c4.com/", "github.com/mdlayher/", "github.com/vishvananda/", "crypto/ecdh", "crypto/tls", "net/http"} {
			require.False(t, strings.HasPrefix(dep, heavy), "%s takes the place of what is done without it", dep)
		}
	}
}

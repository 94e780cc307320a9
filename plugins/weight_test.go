package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestThePluginsLinkNoSecondNetlinkLibraryAndNothingThatTheyDoNotUse(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	require.NoError(t, err)
	deps := strings.Fields(string(out))
	require.Contains(t, deps, "github.com/cniblocks/cniblocks/internal/kernel/wg")
	for _, dep := range []string{"net", "filippo.io/edwards25519"} { // of the latter only the field is used
		require.NotContains(t, deps, dep)
	}
	for _, dep := range deps {
		for _, heavy := range []string{"golang.zx2c4.com/", "github.com/mdlayher/", "github.com/vishvananda/", "crypto/ecdh", "crypto/tls", "net/http", "github.com/containernetworking/"} {
			require.False(t, strings.HasPrefix(dep, heavy), "%s takes the place of what is done without it", dep)
		}
	}
}

func TestTheExecutableHasAtMostSixPointNineMegabytes(t *testing.T) {
	t.Parallel()
	if runtime.GOARCH != "amd64" {
		t.Skip("the figure is that of amd64")
	}
	flags, err := exec.Command("make", "-s", "-C", "..", "--eval", "flags: ; @echo $(PLUGINS_LDFLAGS)", "flags").Output()
	require.NoError(t, err)
	program := filepath.Join(t.TempDir(), "plugins")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", strings.TrimSpace(string(flags)), "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	st, err := os.Stat(program)
	require.NoError(t, err)
	require.LessOrEqual(t, st.Size(), int64(6_900_000), "'go tool nm -size' of a build without -s tells what takes it; see package order for one way to less")
}

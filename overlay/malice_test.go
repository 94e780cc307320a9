//go:build linux

package overlay_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/overlay"
)

func TestAKeyThatSomebodyElsePlantedIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	nstest.NeedRoot(t)
	for says, plant := range map[string]func(path string) error{
		"is not a regular file":        func(path string) error { return unix.Mkfifo(path, 0o600) },
		"too many levels of symbolic ": func(path string) error { return os.Symlink("/dev/zero", path) },
		"belongs to user 4711": func(path string) error {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				return err
			}
			return os.Chown(path, 4711, 4711)
		},
	} {
		dir := t.TempDir()
		require.NoError(t, os.Mkdir(filepath.Join(dir, "net"), 0o700))
		if err := plant(filepath.Join(dir, "net", "wireguard.key")); err != nil {
			t.Skipf("lane: needs root, runs in the namespace lane (%v)", err)
		}
		_, err := overlay.WireGuard{KeyDir: dir}.PublicKey("net")
		require.ErrorContains(t, err, says)
	}
}

//go:build linux

package agent_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

func TestAPasswordIsInNoLogStatusFileOrArgument(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	const secret = "correct-horse-battery"
	w := newWorld(t, 1)
	m := w.machines[0]
	s, _ := w.storeAt(configs["vxlan"])
	for _, line := range [][]string{{"user", "add", "root:" + secret + "-root"}, {"user", "add", "node:" + secret}, {"role", "add", "node"},
		{"role", "grant-permission", "node", "--prefix=true", "readwrite", "/coreos.com/network"}, {"role", "grant-permission", "node", "--prefix=true", "readwrite", "/cniblocks/claims"},
		{"user", "grant-role", "root", "root"}, {"user", "grant-role", "node", "node"}, {"auth", "enable"}} {
		s.Ctl(t, line...)
	}
	password := filepath.Join(w.dir, "password")
	require.NoError(t, os.WriteFile(password, []byte(secret+"\n"), 0o600))

	wrong := m.start([]string{"CNIBLOCKS_ETCD_PASSWORD=" + secret + "-wrong"}, "--etcd-username", "node", "--log-level", "debug")
	require.Eventually(t, func() bool {
		out, _ := wrong.ask()
		return strings.Contains(out, "authentication") || strings.Contains(out, "password")
	}, soon, 50*time.Millisecond, "the refusal is told")
	said, _ := wrong.ask("-o", "json")
	require.NotContains(t, said, secret)
	wrong.stop()

	p := m.start(nil, "--etcd-username", "node", "--etcd-password-file", password, "--log-level", "debug")
	p.ready()
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.cmd.Process.Pid))
	require.NoError(t, err)
	require.NotContains(t, string(args), secret)
	said, err = p.ask("-o", "json")
	require.NoError(t, err)
	require.NotContains(t, said, secret)
	s.Stop(t)
	require.Eventually(t, func() bool {
		out, _ := p.ask()
		return strings.Contains(out, "the last list stays")
	}, soon, 50*time.Millisecond)
	said, _ = p.ask()
	require.NotContains(t, said, secret)
	p.stop()
	require.NoError(t, filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Type()&fs.ModeSocket != 0 || path == password {
			return err
		}
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NotContains(t, string(b), secret, path)
		return nil
	}))
}

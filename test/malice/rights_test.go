//go:build linux

package malice

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/machine"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
)

const somebody = 4711 // a user without a name

// asRoot runs the plugin as root that has lost all but two capabilities.
func asRoot(cmd *exec.Cmd) error {
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		return err
	}
	cmd.Args = []string{setpriv, "--bounding-set=-all,+net_admin,+sys_admin", cmd.Path}
	cmd.Path = setpriv
	return nil
}

// asSomebody runs it as another user that has two capabilities.
func asSomebody(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: somebody, Gid: somebody},
		AmbientCaps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN}}
	return nil
}

func TestTwoCapabilitiesAreEnough(t *testing.T) {
	t.Parallel()
	for who, drop := range map[string]func(*exec.Cmd) error{"root": asRoot, "another user": asSomebody} {
		m := newMachine(t)
		// The directories of leases and state are the user's, those above and the plugins may be read by all.
		bin := readable(t, m.Bin)
		require.NoError(t, os.Chmod(filepath.Dir(m.Dir), 0o755))
		if who != "root" {
			if err := os.Chown(m.Dir, somebody, somebody); err != nil {
				t.Skipf("lane: needs root, runs in the namespace lane (%v)", err)
			}
		}
		for name, conf := range confs(m.Dir) {
			t.Run(who+" "+name, func(t *testing.T) {
				needs(t, name)
				pin, _ := nstest.Named(t)
				var result []byte
				for _, verb := range []cni.Verb{cni.STATUS, cni.ADD, cni.CHECK, cni.GC, cni.DEL} {
					c := machine.Call{Verb: verb, ID: "x", NetNS: netns.Dir + "/" + pin, Conf: conf}
					switch verb {
					case cni.CHECK:
						c.Conf = machine.Check(conf, result)
					case cni.GC:
						c.Conf = machine.GC(conf, "x")
					}
					cmd, close, err := m.Command(soon(t), c)
					require.NoError(t, err)
					defer close()
					cmd.Path = filepath.Join(bin, filepath.Base(cmd.Path))
					require.NoError(t, drop(cmd))
					var out bytes.Buffer
					cmd.Stdout, cmd.Stderr = &out, &out
					require.NoError(t, m.NS.Do(cmd.Run), "%s: %s", verb, &out)
					if verb == cni.ADD {
						result = out.Bytes()
						_, err := m.Do(soon(t), machine.Call{Verb: cni.CHECK, ID: "x", NetNS: c.NetNS, Conf: machine.Check(conf, result)})
						require.NoError(t, err, "what it did is whole")
					}
				}
				require.NotContains(t, nstest.DumpLinks(m.NS), "cniblocks/net/x")
			})
		}
	}
}

// readable copies the plugins to where all may read them.
func readable(t *testing.T, bin string) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	require.NoError(t, os.Chmod(dir, 0o755))
	names, err := os.ReadDir(bin)
	require.NoError(t, err)
	first := ""
	for _, n := range names {
		to := filepath.Join(dir, n.Name())
		if first != "" {
			require.NoError(t, os.Link(first, to))
			continue
		}
		b, err := os.ReadFile(filepath.Join(bin, n.Name()))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(to, b, 0o755))
		first = to
	}
	return dir
}

func TestWithoutTheCapabilitiesAnErrorSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	bin := readable(t, m.Bin)
	pin, _ := nstest.Named(t)
	require.NoError(t, os.Chmod(filepath.Dir(m.Dir), 0o755))
	if err := os.Chown(m.Dir, somebody, somebody); err != nil {
		t.Skipf("lane: needs root, runs in the namespace lane (%v)", err)
	}
	for caps, kept := range map[string][]uintptr{"none": nil, "CAP_NET_ADMIN": {unix.CAP_NET_ADMIN}} {
		cmd, close, err := m.Command(soon(t), machine.Call{Verb: cni.ADD, ID: "x", NetNS: netns.Dir + "/" + pin, Conf: confs(m.Dir)["bridge"]})
		require.NoError(t, err)
		defer close()
		cmd.Path = filepath.Join(bin, "bridge")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: somebody, Gid: somebody}, AmbientCaps: kept}
		out, err := output(m, cmd)
		require.Error(t, err, caps)
		require.Contains(t, out, "operation not permitted", caps)
	}
	require.NotContains(t, nstest.DumpLinks(m.NS), "cniblocks/net/x")
	held, err := m.Held("net")
	require.NoError(t, err)
	require.Empty(t, held)
}

func output(m *machine.Machine, cmd *exec.Cmd) (string, error) {
	var out bytes.Buffer
	cmd.Stdout = &out
	err := m.NS.Do(cmd.Run)
	return out.String(), err
}

func TestNoShellIsEverCalled(t *testing.T) {
	t.Parallel()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("lane: needs the program strace")
	}
	m := newMachine(t)
	for name, conf := range confs(m.Dir) {
		t.Run(name, func(t *testing.T) {
			needs(t, name)
			p := pod(t, m, name)
			var result []byte
			programs := map[string]int{}
			for _, verb := range []cni.Verb{cni.STATUS, cni.ADD, cni.CHECK, cni.GC, cni.DEL, cni.VERSION} {
				c := machine.Call{Verb: verb, ID: "x", NetNS: p.Path, Conf: conf}
				switch verb {
				case cni.CHECK:
					c.Conf = machine.Check(conf, result)
				case cni.GC:
					c.Conf = machine.GC(conf)
				}
				cmd, close, err := m.Command(soon(t), c)
				require.NoError(t, err)
				defer close()
				log := filepath.Join(t.TempDir(), "log")
				cmd.Args = []string{strace, "-f", "-q", "-e", "trace=execve,execveat", "-o", log, cmd.Path}
				cmd.Path = strace
				out, err := output(m, cmd)
				require.NoError(t, err, "%s: %s", verb, out)
				if verb == cni.ADD {
					result = []byte(out)
				}
				b, err := os.ReadFile(log)
				require.NoError(t, err)
				for line := range strings.Lines(string(b)) {
					if _, call, ok := strings.Cut(line, "execve(\""); ok {
						path, _, _ := strings.Cut(call, "\"")
						programs[filepath.Base(path)]++
					}
				}
			}
			require.NotEmpty(t, programs)
			for program := range programs {
				allowed := program == "exe" || strings.HasPrefix(program, "iptables") || strings.HasPrefix(program, "ip6tables") ||
					fileExists(filepath.Join(m.Bin, program))
				require.True(t, allowed, "it executes %s", program)
			}
			t.Log(fmt.Sprint(programs))
		})
	}
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

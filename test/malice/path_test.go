//go:build linux

package malice

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/machine"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

// hostile are paths that are no container's namespace, with the code that an ADD answers.
func hostile(t *testing.T) map[string]cni.Code {
	t.Helper()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, unix.Mkfifo(at("fifo"), 0o666))
	require.NoError(t, os.WriteFile(at("file"), []byte("x"), 0o644))
	require.NoError(t, os.Symlink(at("loop"), at("loop")))
	require.NoError(t, os.Symlink("/proc/self/ns/net", at("deep0")))
	for i := range 60 {
		require.NoError(t, os.Symlink(at(fmt.Sprint("deep", i)), at(fmt.Sprint("deep", i+1))))
	}
	require.NoError(t, os.Symlink(at("fifo"), at("to-fifo")))
	return map[string]cni.Code{
		at("fifo"): cni.ErrEnvironment, at("to-fifo"): cni.ErrEnvironment, at("file"): cni.ErrEnvironment, dir: cni.ErrEnvironment,
		at("loop"): cni.ErrEnvironment, at("deep60"): cni.ErrEnvironment, at("none"): cni.ErrUnknownContainer,
		"/dev/zero": cni.ErrEnvironment, "/dev/tty": cni.ErrEnvironment, "/dev/null": cni.ErrEnvironment, "/proc/self/mem": cni.ErrEnvironment,
		"/proc/self/ns/mnt": cni.ErrEnvironment, "/proc/self/ns/user": cni.ErrEnvironment, "/proc/self/fd/0": cni.ErrEnvironment,
		"/" + strings.Repeat("a/", 2046) + "b": cni.ErrEnvironment, "/" + strings.Repeat("x", 300): cni.ErrEnvironment,
	}
}

func TestAHostilePathInPlaceOfANamespaceIsAnErrorAtOnceAndChangesNothing(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	paths := hostile(t)
	for name, conf := range confs(m.Dir) {
		t.Run(name, func(t *testing.T) {
			needs(t, name)
			p := pod(t, m, name)
			for _, verb := range []cni.Verb{cni.ADD, cni.DEL} { // the bridge and its like are there
				_, err := m.Do(soon(t), machine.Call{Verb: verb, ID: "first", NetNS: p.Path, Conf: conf})
				require.NoError(t, err)
			}
			nstest.Settle(t, m.NS)
			before := nstest.Dump(m.NS)
			for path, code := range paths {
				r := refusal(t, m, machine.Call{Verb: cni.ADD, ID: "x", NetNS: path, Conf: conf})
				if code == cni.ErrEnvironment { // a path that cannot be is one that is not there to some
					require.Contains(t, []cni.Code{code, cni.ErrUnknownContainer}, r.Code, "%.60s: %s", path, r.Msg)
				} else {
					require.Equal(t, code, r.Code, "%.60s: %s", path, r.Msg)
				}
				require.Contains(t, r.Msg, "CNI_NETNS", "%.60s", path)
				_, err := m.Do(soon(t), machine.Call{Verb: cni.DEL, ID: "x", NetNS: path, Conf: conf})
				require.NoError(t, err, "%.60s", path)
			}
			require.Equal(t, before, nstest.Dump(m.NS))
		})
	}
}

func TestTheNodesOwnNamespaceAndThatOfAnotherPodAreLeftAlone(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	for name, conf := range confs(m.Dir) {
		if name == "loopback" {
			continue // its interface is everybody's own
		}
		t.Run(name, func(t *testing.T) {
			needs(t, name)
			p := pod(t, m, name)
			out, err := m.Do(soon(t), machine.Call{Verb: cni.ADD, ID: "first", NetNS: p.Path, Conf: conf})
			require.NoError(t, err)
			nstest.Settle(t, m.NS)
			nstest.Settle(t, p.NS)
			before, inside := nstest.Dump(m.NS), nstest.DumpLinks(p.NS)
			own := refusal(t, m, machine.Call{Verb: cni.ADD, ID: "x", NetNS: "/proc/self/ns/net", Conf: conf})
			require.Contains(t, own.Msg, "the node's own network namespace")
			taken := refusal(t, m, machine.Call{Verb: cni.ADD, ID: "x", NetNS: p.Path, Conf: conf})
			require.Equal(t, cni.ErrConfig, taken.Code)
			for _, path := range []string{"/proc/self/ns/net", p.Path} { // a DEL that lies about whose it is
				_, err = m.Do(soon(t), machine.Call{Verb: cni.DEL, ID: "x", NetNS: path, Conf: conf})
				require.NoError(t, err)
			}
			require.Equal(t, before, nstest.Dump(m.NS))
			require.Equal(t, inside, nstest.DumpLinks(p.NS))
			_, err = m.Do(soon(t), machine.Call{Verb: cni.CHECK, ID: "first", NetNS: p.Path, Conf: machine.Check(conf, out)})
			require.NoError(t, err)
			_, err = m.Do(soon(t), machine.Call{Verb: cni.DEL, ID: "first", Conf: conf})
			require.NoError(t, err)
		})
	}
}

func TestNoNameBecomesAPathElsewhere(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	p := pod(t, m, "x")
	top := filepath.Join(m.Dir, "top")
	dir := filepath.Join(top, "in")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	before := files(t, top)
	bad := []string{"..", ".", "../x", "/etc/x", "a/b", "a/../../b", strings.Repeat("x", 256), "a b", "a\nb", "-a", "_a", ".a", "ä", "a\u2028b", "$(id)", "`id`", "a;b", "a'b"}
	for name, conf := range confs(dir) {
		if name == "iptables" {
			continue
		}
		for _, verb := range []cni.Verb{cni.ADD, cni.DEL, cni.CHECK, cni.GC, cni.STATUS} {
			for _, s := range append(bad, "a\x00b", "") {
				r := refusal(t, m, machine.Call{Verb: verb, ID: "x", NetNS: p.Path, Conf: machine.With(conf, "name", s)})
				require.Equal(t, cni.ErrConfig, r.Code, "%q: %s", s, r.Msg)
			}
			if verb == cni.GC || verb == cni.STATUS {
				continue
			}
			for _, s := range bad {
				r := refusal(t, m, machine.Call{Verb: verb, ID: s, NetNS: p.Path, Conf: conf})
				require.Equal(t, cni.ErrEnvironment, r.Code, "%q: %s", s, r.Msg)
			}
			for _, s := range []string{"..", "../x", "a/b", "a b", "a:b", "%d", "a\nb", strings.Repeat("x", 16)} {
				r := refusal(t, m, machine.Call{Verb: verb, ID: "x", IfName: s, NetNS: p.Path, Conf: conf})
				require.Equal(t, cni.ErrEnvironment, r.Code, "%q: %s", s, r.Msg)
			}
		}
	}
	for _, s := range []string{"../bridge", "/bin/sh", "..", strings.Repeat("x", 300)} { // a delegate is a file name, too
		for _, verb := range []cni.Verb{cni.ADD, cni.DEL, cni.GC} {
			r := refusal(t, m, machine.Call{Verb: verb, ID: "x", NetNS: p.Path, Conf: machine.GC(machine.With(confs(dir)["bridge"], "ipam", map[string]string{"type": s}))})
			require.Contains(t, r.Msg, `key "type" of a delegate`)
		}
	}
	// What an attachment that is valid for a GC is called reaches no file.
	for _, s := range bad {
		conf := machine.With(confs(dir)["bridge"], "cni.dev/valid-attachments", []cni.Attachment{{ContainerID: s, IfName: s}})
		r := refusal(t, m, machine.Call{Verb: cni.GC, Conf: conf})
		require.Equal(t, cni.ErrConfig, r.Code, "%q: %s", s, r.Msg)
	}
	require.Equal(t, before, files(t, top))
}

func TestLinksThatSomebodyPlantedAreNotFollowed(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"net", ".cniblocks", ".cniblocks/net", "run/net", "net/lock", "net/last_reserved_ip.0", "net/10.244.1.2", "run/net/peers.stamp",
		"run/net/peers.stamp.new", "run/net/lock", "run/net/node.json"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			nstest.Need(t, nstest.VXLAN)
			m := newMachine(t)
			p := pod(t, m, "x")
			victim := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(victim, "file"), []byte("precious"), 0o600))
			target := victim
			if strings.Count(at, "/") > 0 && at != "run/net" && at != ".cniblocks/net" {
				target = filepath.Join(victim, "file")
			}
			path := filepath.Join(m.Dir, at)
			require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
			require.NoError(t, os.Symlink(target, path))
			before := files(t, victim)
			conf := machine.GC(confs(m.Dir)["overlay"])
			for _, verb := range []cni.Verb{cni.ADD, cni.DEL, cni.GC, cni.ADD, cni.DEL} {
				_, err := m.Do(soon(t), machine.Call{Verb: verb, ID: "x", NetNS: p.Path, Conf: conf})
				var r *machine.Refusal
				if err != nil { // it may do without the file, or refuse
					require.ErrorAs(t, err, &r)
					require.Contains(t, r.Msg, m.Dir)
				}
			}
			require.Equal(t, before, files(t, victim))
			b, err := os.ReadFile(filepath.Join(victim, "file"))
			require.NoError(t, err)
			require.Equal(t, "precious", string(b))
		})
	}
}

// TestFilesAreForTheirOwnerToWriteWhateverTheUmask does not run beside others: the umask is the process's.
func TestFilesAreForTheirOwnerToWriteWhateverTheUmask(t *testing.T) {
	old := unix.Umask(0)
	defer unix.Umask(old)
	m := newMachine(t)
	for name, conf := range confs(m.Dir) {
		t.Run(name, func(t *testing.T) {
			needs(t, name)
			p := pod(t, m, name)
			out, err := m.Do(soon(t), machine.Call{Verb: cni.ADD, ID: "x", NetNS: p.Path, Conf: conf})
			require.NoError(t, err)
			require.NoError(t, filepath.WalkDir(m.Dir, func(path string, e os.DirEntry, err error) error {
				if err != nil || path == m.Dir || e.Type()&fs.ModeSymlink != 0 {
					return err
				}
				info, err := e.Info()
				require.NoError(t, err)
				allowed := []fs.FileMode{0o600, 0o644}
				if e.IsDir() {
					allowed = []fs.FileMode{0o700, 0o755}
				}
				require.Contains(t, allowed, info.Mode().Perm(), path)
				return nil
			}))
			_, err = m.Do(soon(t), machine.Call{Verb: cni.DEL, ID: "x", NetNS: p.Path, Conf: machine.Check(conf, out)})
			require.NoError(t, err)
		})
	}
}

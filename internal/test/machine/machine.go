//go:build linux

// Package machine is a machine with network namespaces in place of containers, on which tests execute the plugins as a
// runtime does.
package machine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/binaries"
	"github.com/cniblocks/cniblocks/internal/test/lab"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
)

// Machine is a node in a namespace of its own, with an uplink to an outside.
type Machine struct {
	NS   *netns.NS
	Bin  string // of the plugins' executables
	Path string // CNI_PATH
	Dir  string // of everything that is kept: leases, state

	linked cni.Delegates
}

// New makes a machine that forwards, so that what the plugins switch on is on from the beginning, with the addresses
// 192.0.2.11 and 2001:db8::11. The package's TestMain is to call binaries.Remove.
func New(t testing.TB) *Machine {
	t.Helper()
	nstest.NeedRoot(t)
	bin, err := binaries.Build()
	require.NoError(t, err)
	m := bare(t)
	m.Bin, m.Path = bin, bin
	return m
}

// Linked makes a machine whose plugins run in this process, where building programs takes too long.
func Linked(t testing.TB, plugins cni.Delegates) *Machine {
	t.Helper()
	m := bare(t)
	m.Path, m.linked = "/nowhere", plugins
	return m
}

// Lent is a machine whose namespace somebody else made, and whose plugins run in this process.
func Lent(ns *netns.NS, dir string, plugins cni.Delegates) *Machine {
	return &Machine{NS: ns, Dir: dir, Path: "/nowhere", linked: plugins}
}

func bare(t testing.TB) *Machine {
	t.Helper()
	m := &Machine{NS: nstest.New(t), Dir: t.TempDir()}
	lab.Node(t, m.NS, 11)
	nstest.Forward(t, m.NS)
	nstest.Settle(t, m.NS)
	return m
}

// Pod is a namespace with a path that no other pod ever has.
type Pod struct {
	NS   *netns.NS
	Path string
}

// Pod makes one, with lo down as a runtime does. The caller closes it.
func (m *Machine) Pod(name string) (Pod, error) {
	ns, err := netns.New()
	if err != nil {
		return Pod{}, err
	}
	p := Pod{ns, filepath.Join(m.Dir, "pod-"+name)}
	if err := os.Symlink(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd()), p.Path); err != nil {
		return p, errors.Join(err, ns.Close())
	}
	return p, nil
}

// Close ends the namespace; its path is gone before.
func (p Pod) Close() error { return errors.Join(os.Remove(p.Path), p.NS.Close()) }

// Call is one call of a plugin.
type Call struct {
	Verb      cni.Verb
	ID, NetNS string
	IfName    string // "" is eth0
	Conf      string
}

// Refusal is the error that a plugin printed.
type Refusal struct {
	Code cni.Code `json:"code"`
	Msg  string   `json:"msg"`
}

func (r *Refusal) Error() string { return fmt.Sprintf("code %d: %s", r.Code, r.Msg) }

// Command is a call that was not started, with the configuration in memory as its standard input, which close closes.
func (m *Machine) Command(ctx context.Context, c Call) (cmd *exec.Cmd, close func(), err error) {
	var conf struct{ Type string }
	if err := json.Unmarshal([]byte(c.Conf), &conf); err != nil {
		return nil, nil, fmt.Errorf("configuration %s: %w", c.Conf, err)
	}
	fd, err := unix.MemfdCreate("conf", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, nil, err
	}
	in := os.NewFile(uintptr(fd), "conf")
	if _, err := in.WriteAt([]byte(c.Conf), 0); err != nil {
		in.Close()
		return nil, nil, err
	}
	if c.IfName == "" {
		c.IfName = "eth0"
	}
	cmd = exec.CommandContext(ctx, filepath.Join(m.Bin, conf.Type))
	cmd.Stdin = in
	cmd.Env = []string{"CNI_COMMAND=" + string(c.Verb), "CNI_CONTAINERID=" + c.ID, "CNI_NETNS=" + c.NetNS,
		"CNI_IFNAME=" + c.IfName, "CNI_PATH=" + m.Path, "PATH=" + os.Getenv("PATH")}
	return cmd, func() { in.Close() }, nil
}

// Do runs a plugin to its end and returns what it printed. If it said what is wrong the error is a [Refusal].
func (m *Machine) Do(ctx context.Context, c Call) ([]byte, error) {
	var out, errs bytes.Buffer
	if err := m.run(ctx, c, &out, &errs); err != nil {
		var r Refusal
		if json.Unmarshal(out.Bytes(), &r) == nil && r.Code != 0 {
			return nil, fmt.Errorf("%s %s: %w", c.Verb, c.ID, &r)
		}
		return nil, fmt.Errorf("%s %s: %w: %s %s", c.Verb, c.ID, err, &out, &errs)
	}
	return out.Bytes(), nil
}

func (m *Machine) run(ctx context.Context, c Call, out, errs *bytes.Buffer) error {
	cmd, close, err := m.Command(ctx, c)
	if err != nil {
		return err
	}
	defer close()
	cmd.Stdout, cmd.Stderr = out, errs
	if m.linked == nil {
		return m.NS.Do(cmd.Run)
	}
	getenv := func(key string) string {
		for _, kv := range cmd.Env {
			if value, ok := strings.CutPrefix(kv, key+"="); ok {
				return value
			}
		}
		return ""
	}
	return m.NS.Do(func() error {
		if cni.Run(ctx, m.linked[filepath.Base(cmd.Path)], m.linked, getenv, cmd.Stdin, out, errs) != 0 {
			return errors.New("it failed")
		}
		return nil
	})
}

// SubnetEnv writes what flannel leaves on a node whose range is 10.7.1.0/24, and returns the path.
func (m *Machine) SubnetEnv(t testing.TB) string {
	t.Helper()
	path := filepath.Join(m.Dir, "subnet.env")
	require.NoError(t, os.WriteFile(path, []byte("FLANNEL_NETWORK=10.7.0.0/16\nFLANNEL_SUBNET=10.7.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"), 0o644))
	return path
}

// Held are the addresses that are leased in a network, by container ID; each list is sorted.
func (m *Machine) Held(network string) (map[string][]string, error) {
	held := map[string][]string{}
	dir := filepath.Join(m.Dir, network)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return held, nil
	}
	for _, e := range entries {
		if _, err := netip.ParseAddr(e.Name()); err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		id, _, _ := strings.Cut(string(b), "\r\n")
		held[id] = append(held[id], e.Name())
		slices.Sort(held[id])
	}
	return held, err
}

// Files are the names of all files below the directory, pods excepted.
func (m *Machine) Files(t testing.TB) (names []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(m.Dir, func(path string, e os.DirEntry, err error) error {
		if e != nil && e.Type()&fs.ModeSymlink == 0 {
			names = append(names, strings.TrimPrefix(path, m.Dir))
		}
		return err
	}))
	return names
}

// With is a configuration with one key more, or another value of it.
func With(conf, key string, value any) string {
	var c map[string]any
	if err := json.Unmarshal([]byte(conf), &c); err != nil {
		panic(err)
	}
	c[key] = value
	b, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// GC is a configuration as GC has it, with the containers that are valid.
func GC(conf string, valid ...string) string {
	list := []cni.Attachment{}
	for _, id := range valid {
		list = append(list, cni.Attachment{ContainerID: id, IfName: "eth0"})
	}
	return With(conf, "cni.dev/valid-attachments", list)
}

// Check is a configuration as CHECK has it.
func Check(conf string, result []byte) string {
	return With(conf, "prevResult", json.RawMessage(result))
}

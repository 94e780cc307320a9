//go:build linux

package crash_test

import (
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
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/tracer"
	"github.com/cniblocks/cniblocks/inventory"
	"github.com/cniblocks/cniblocks/inventory/sweep"
	"github.com/cniblocks/cniblocks/netns"
)

// node is where plugins are killed.
type node struct {
	t     *testing.T
	name  string // of the configuration
	conf  string
	two   string // with the other list of peers
	alone bool   // see config
	ns    *netns.NS
	all   nstest.Dumper // of the namespace
	bin   string
	dir   string             // leases, state
	io    string             // what programs read and print
	pods  map[string]*podEnd // by container ID
	last  string             // what was struck, for messages
}

// podEnd is a pod's namespace, and what its last ADD gave it.
type podEnd struct {
	ns     *netns.NS
	h      *netlink.Handle // in it
	result json.RawMessage
}

func newNode(t *testing.T, c config) *node {
	t.Helper()
	n := &node{t: t, name: c.name, alone: c.alone, ns: nstest.New(t), bin: programs(t), dir: t.TempDir(), io: t.TempDir(), pods: map[string]*podEnd{}}
	n.all.NS = n.ns
	n.conf, n.two = strings.ReplaceAll(c.json, "DIR", n.dir), strings.ReplaceAll(c.peers, "DIR", n.dir)
	for name, text := range c.files {
		require.NoError(t, os.MkdirAll(filepath.Join(n.dir, "peers"), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(n.dir, "peers", name), []byte(text), 0o644))
	}
	nstest.Sysctl(t, n.ns, "net/ipv6/conf/default/accept_dad", "0")
	nstest.Link(t, nstest.End{NS: n.ns, Name: "uplink", Addrs: []string{"192.0.2.11/24", "2001:db8::11/64"}}, nstest.End{NS: nstest.New(t), Name: "eth0"})
	nstest.Forward(t, n.ns) // what plugins switch on stays on, and with it some addresses of the kernel's
	if slices.Contains(c.needs, nstest.IPTables) {
		n.touchTables()
	}
	nstest.Settle(t, n.ns)
	return n
}

// touchTables has iptables make the built-in chains that it leaves once it was used.
func (n *node) touchTables() {
	n.t.Helper()
	for _, program := range []string{"iptables", "ip6tables"} {
		for _, do := range []string{"-A", "-D"} {
			require.NoError(n.t, n.ns.Do(exec.Command(program, "-w", "-t", "nat", do, "POSTROUTING", "-j", "RETURN").Run))
		}
	}
}

// pod is that of a container ID; it has a namespace of its own from the first time on.
func (n *node) pod(id string) *podEnd {
	if n.pods[id] == nil {
		ns := nstest.New(n.t)
		n.pods[id] = &podEnd{ns: ns, h: nstest.Netlink(n.t, ns)}
	}
	return n.pods[id]
}

// call is a request to a plugin, or to apply the peers without one.
type call struct {
	verb  cni.Verb
	id    string
	conf  string
	noNS  bool // as when the namespace is gone
	valid []string
}

const upVerb cni.Verb = "up" // of `cniblocks overlay`

func (n *node) add(id string) call    { return call{verb: cni.ADD, id: id, conf: n.conf} }
func (n *node) del(id string) call    { return call{verb: cni.DEL, id: id, conf: n.conf} }
func (n *node) gc(ids ...string) call { return call{verb: cni.GC, conf: n.conf, valid: ids} }
func (n *node) check(id string) call  { return call{verb: cni.CHECK, id: id, conf: n.conf} }
func (n *node) up(conf string) call   { return call{verb: upVerb, conf: conf} }

// with puts what a verb needs into its configuration.
func (n *node) with(c call) string {
	var conf map[string]json.RawMessage
	require.NoError(n.t, json.Unmarshal([]byte(c.conf), &conf))
	switch c.verb {
	case cni.GC:
		n.end(func(id string) bool { return !slices.Contains(c.valid, id) })
		valid := []cni.Attachment{}
		for _, id := range c.valid {
			valid = append(valid, cni.Attachment{ContainerID: id, IfName: "eth0"})
		}
		b, err := json.Marshal(valid)
		require.NoError(n.t, err)
		conf["cni.dev/valid-attachments"] = b
	case cni.CHECK:
		conf["prevResult"] = n.pod(c.id).result
	}
	b, err := json.Marshal(conf)
	require.NoError(n.t, err)
	return string(b)
}

// end takes the interfaces that have no end on the node from containers, as their end does.
func (n *node) end(of func(id string) bool) {
	n.t.Helper()
	for id, p := range n.pods {
		if !n.alone || !of(id) {
			continue
		}
		links, err := p.h.LinkList()
		require.NoError(n.t, err)
		for _, l := range links {
			if l.Attrs().Name != "lo" {
				require.NoError(n.t, p.h.LinkDel(l))
			}
		}
	}
}

func (n *node) command(c call) *exec.Cmd {
	conf := n.with(c)
	if c.verb == upVerb {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{upEnv + "=" + conf}
		return n.connect(cmd, "")
	}
	var of struct{ Type string }
	require.NoError(n.t, json.Unmarshal([]byte(conf), &of))
	cmd := exec.Command(filepath.Join(n.bin, of.Type))
	ns := ""
	if c.noNS {
		n.end(func(id string) bool { return id == c.id })
	} else if c.verb != cni.GC {
		ns = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.pod(c.id).ns.Fd())
	}
	cmd.Env = []string{"CNI_COMMAND=" + string(c.verb), "CNI_CONTAINERID=" + c.id, "CNI_NETNS=" + ns, "CNI_IFNAME=eth0", "CNI_PATH=" + n.bin}
	return n.connect(cmd, conf)
}

// connect gives a program files to read and write, which are kept for the next one.
func (n *node) connect(cmd *exec.Cmd, in string) *exec.Cmd {
	open := func(name string, content string) *os.File {
		path := filepath.Join(n.io, name)
		require.NoError(n.t, os.WriteFile(path, []byte(content), 0o600))
		f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
		require.NoError(n.t, err)
		return f
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = open("in", in), open("out", ""), open("errs", "")
	return cmd
}

// answer is what a program printed.
func (n *node) answer(cmd *exec.Cmd) (out, errs []byte) {
	for _, f := range []any{cmd.Stdin, cmd.Stdout, cmd.Stderr} {
		f.(*os.File).Close()
	}
	out, err := os.ReadFile(filepath.Join(n.io, "out"))
	require.NoError(n.t, err)
	errs, err = os.ReadFile(filepath.Join(n.io, "errs"))
	require.NoError(n.t, err)
	return out, errs
}

// run lets a program finish.
func (n *node) run(c call) {
	n.t.Helper()
	cmd := n.command(c)
	err := n.ns.Do(cmd.Run)
	out, errs := n.answer(cmd)
	require.NoError(n.t, err, "%s; then %s %s: %s %s", n.last, c.verb, c.id, out, errs)
	if c.verb == cni.ADD {
		n.pod(c.id).result = out
	}
}

// struck is a program that was killed, or one of whose calls failed.
type struck struct {
	tracer.Outcome
	at       string // the call that it was
	out, err string
}

type trace func(*exec.Cmd, func(tracer.Call) tracer.Verdict) (tracer.Outcome, error)

// strike runs a program with a verdict on its k-th call of those that are traced.
func (n *node) strike(c call, trace trace, k int, v tracer.Verdict) (s struck) {
	n.t.Helper()
	cmd := n.command(c)
	require.NoError(n.t, n.ns.Do(func() (err error) {
		s.Outcome, err = trace(cmd, func(c tracer.Call) tracer.Verdict {
			if c.N != k {
				return tracer.Verdict{}
			}
			s.at = c.String()
			return v
		})
		return err
	}))
	n.last = fmt.Sprintf("%s %s struck at %d: %s", c.verb, c.id, k, s.at)
	out, errs := n.answer(cmd)
	s.out, s.err = string(out), string(errs)
	if c.verb == cni.ADD && s.Status == 0 {
		n.pod(c.id).result = out
	}
	return s
}

// kill runs a program and kills it before its k-th change.
func (n *node) kill(c call, k int) struck {
	n.t.Helper()
	s := n.strike(c, tracer.Trace, k, tracer.Kill())
	if !s.Killed {
		require.Zero(n.t, s.Status, "%s %s: %s%s", c.verb, c.id, s.out, s.err)
	}
	return s
}

const halfNote = "/run/net/node.json.new"

// dump is all that is on the node: the namespace, the leases, the state.
func (n *node) dump() string { return n.all.Dump() + n.files() }

// files are those of the leases and of the state, addresses with what is in them.
func (n *node) files() string {
	var out strings.Builder
	require.NoError(n.t, filepath.WalkDir(n.dir, func(path string, e fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, n.dir)
		// Keys stay, the blocks of the index come and go with every reading of the directory, and what a killed writer
		// of the note left goes with the next note.
		if err != nil || strings.Count(name, "/") < 2 || name == "/lib/net" || name == "/lib/net/wireguard.key" || name == halfNote || strings.HasPrefix(e.Name(), "block.") {
			return err
		}
		fmt.Fprint(&out, "file ", name)
		if _, notAddr := netip.ParseAddr(e.Name()); notAddr == nil {
			b, err := os.ReadFile(path)
			require.NoError(n.t, err)
			fmt.Fprintf(&out, " %q", b)
		}
		fmt.Fprintln(&out)
		return nil
	}))
	return out.String()
}

// is waits until the dump is what it is to be: the kernel does some things later, by itself.
func (n *node) is(want string, format string, args ...any) {
	n.t.Helper()
	n.soon(want, n.dump, fmt.Sprintf(format, args...))
}

func (n *node) soon(want string, look func() string, why string) {
	n.t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		got := look()
		if got == want {
			return
		}
		if time.Now().After(end) {
			require.Fail(n.t, why, differences(want, got))
		}
	}
}

// differences are the lines that only one of two dumps has.
func differences(want, got string) string {
	var out strings.Builder
	for _, d := range []struct{ mark, a, b string }{{"-", want, got}, {"+", got, want}} {
		other := map[string]int{}
		for line := range strings.Lines(d.b) {
			other[line]++
		}
		for line := range strings.Lines(d.a) {
			if other[line]--; other[line] < 0 {
				out.WriteString(d.mark + line)
			}
		}
	}
	return out.String()
}

// settled is the dump when nothing comes any more.
func (n *node) settled() string {
	nstest.Settle(n.t, n.ns)
	return n.dump()
}

// steady is the dump that a round leaves as it was: what the kernel makes late, on a busy machine much later, is there
// then.
func (n *node) steady(round func()) string {
	n.t.Helper()
	last := n.settled()
	for range 5 {
		round()
		now := n.settled()
		if now == last {
			return now
		}
		last = now
	}
	require.Fail(n.t, "each round leaves something else")
	return ""
}

// cleanup is `cniblocks cleanup --network net`.
func (n *node) cleanup() {
	n.t.Helper()
	n.end(func(string) bool { return true })
	state := filepath.Join(n.dir, "run")
	found, err := inventory.Read(n.t.Context(), inventory.Options{NS: n.ns, DataDirs: []string{filepath.Join(n.dir, "leases"), filepath.Join(n.dir, "flannel")}, StateDir: state})
	require.NoError(n.t, err)
	require.Empty(n.t, found.Unread)
	p, err := sweep.Make(sweep.Options{NS: n.ns, Found: found, Network: "net", StateDir: state, Disk: true})
	require.NoError(n.t, err)
	require.NoError(n.t, p.Run(context.Background(), func(sweep.Step, error) {}))
}

// addresses are those of a pod's interface in the kernel, link-local ones aside.
func (p *podEnd) addresses(t *testing.T) (all []string) {
	t.Helper()
	l, err := p.h.LinkByName("eth0")
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	require.NoError(t, err)
	addrs, err := p.h.AddrList(l, netlink.FAMILY_ALL)
	require.NoError(t, err)
	for _, a := range addrs {
		if a.IP.To4() != nil || !a.IP.IsLinkLocalUnicast() {
			all = append(all, a.IPNet.String())
		}
	}
	return all
}

// distinct proves that no two pods have an address in common.
func (n *node) distinct(why string) {
	n.t.Helper()
	owner := map[string]string{}
	for id, p := range n.pods {
		for _, a := range p.addresses(n.t) {
			require.NotContains(n.t, owner, a, "%s: %s has an address of %s", why, id, owner[a])
			owner[a] = id
		}
	}
}

// attaches proves that a pod with these IDs can be attached now, and gets addresses of its own.
func (n *node) attaches(id, why string) {
	n.t.Helper()
	n.run(n.add(id))
	n.distinct(why)
	if strings.Contains(n.conf, `"ipam"`) {
		require.NotEmpty(n.t, n.pod(id).addresses(n.t), why)
	}
	n.run(n.check(id))
}

//go:build linux

package reap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/cniblocks/cniblocks/addr"
	"github.com/cniblocks/cniblocks/internal/test/binaries"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/veth"
)

// world is a node and a pod with a pair between them.
type world struct {
	t         *testing.T
	node, pod *netns.NS
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{t, nstest.New(t), nstest.New(t)}
}

// attach makes a pair and gives both ends an address.
func (w *world) attach(name string) (index int, err error) {
	ctx := w.t.Context()
	p, err := veth.Create(ctx, veth.Pair{Host: veth.End{NS: w.node, Name: name}, Pod: veth.End{NS: w.pod, Name: name}})
	if err != nil {
		return 0, err
	}
	return p.Host.Index, errors.Join(link.Apply(ctx, w.pod, link.Up(p.Pod.Index), addr.Add(p.Pod.Index, netip.MustParsePrefix("192.0.2.2/24")), addr.Add(p.Pod.Index, netip.MustParsePrefix("2001:db8::2/64"))),
		link.Apply(ctx, w.node, addr.Add(p.Host.Index, netip.MustParsePrefix("192.0.2.1/24"))))
}

func (w *world) mustAttach(name string) int {
	w.t.Helper()
	index, err := w.attach(name)
	require.NoError(w.t, err)
	return index
}

// links are the names in both namespaces but lo, as another library sees them.
func (w *world) links() (names []string) {
	w.t.Helper()
	for _, ns := range []*netns.NS{w.node, w.pod} {
		links, err := nstest.Netlink(w.t, ns).LinkList()
		require.NoError(w.t, err)
		for _, l := range links {
			if _, ok := l.(*netlink.Veth); ok {
				names = append(names, l.Attrs().Name)
			}
		}
	}
	return names
}

func path(ns *netns.NS) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd()) }

// plugin is the program that runtimes call: where there is an entry its children begin there, those of this test binary in
// main.
func plugin(t testing.TB) *Deleter {
	t.Helper()
	dir, err := binaries.Build()
	require.NoError(t, err)
	return &Deleter{program: filepath.Join(dir, "bridge")}
}

// script is a program that does something else than a child should.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "child")
	syscall.ForkLock.RLock() // no child that is just being started may hold it open for writing
	defer syscall.ForkLock.RUnlock()
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/bash\n"+text), 0o700))
	return path
}

// late is a script that becomes the real child when a file is there; its process ID is in the file "pid" besides.
func late(t *testing.T) (program, gate string) {
	t.Helper()
	self := plugin(t).program
	dir := t.TempDir()
	gate = filepath.Join(dir, "gate")
	return script(t, fmt.Sprintf("echo $$ > %s/pid; while [ ! -e %s ]; do sleep 0.02; done; exec -a %s %s", dir, gate, childName, self)), gate
}

// ended waits until the child that the gate belongs to has ended.
func ended(t *testing.T, gate string) {
	t.Helper()
	require.NoError(t, os.WriteFile(gate, nil, 0o600))
	var pid string
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(filepath.Join(filepath.Dir(gate), "pid"))
		pid = strings.TrimSpace(string(b))
		return err == nil && pid != ""
	}, 30*time.Second, 5*time.Millisecond)
	require.Eventually(t, func() bool {
		b, err := os.ReadFile("/proc/" + pid + "/stat")
		return err != nil || strings.Contains(string(b), ") Z ")
	}, 30*time.Second, 5*time.Millisecond)
}

func TestNameAndAddressAreFreeAThousandTimesInARow(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), plugin(t)
	rounds := 1000
	if testing.Short() {
		rounds = 100
	}
	before := nstest.Dump(w.node)
	for i := range rounds {
		index, err := w.attach("eth0")
		require.NoError(t, err, "round %d", i)
		require.NoError(t, r.Delete(t.Context(), w.node, index), "round %d", i)
		require.Empty(t, w.links(), "round %d", i)
	}
	require.Equal(t, before, nstest.Dump(w.node))
}

func TestDeleteExecutesThisProgram(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var d Deleter
	index := w.mustAttach("eth0")
	require.NoError(t, d.Delete(t.Context(), w.node, index))
	require.Empty(t, w.links())
	require.NoError(t, d.Delete(t.Context(), w.node, index), "one that is not there")
	require.NoError(t, d.Delete(t.Context(), w.node, 99999))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	index = w.mustAttach("eth0")
	require.ErrorIs(t, d.Delete(ctx, w.node, index), context.Canceled)
	require.Len(t, w.links(), 2)
}

func TestWhateverBecomesOfTheChildTheInterfaceIsGone(t *testing.T) {
	t.Parallel()
	for name, program := range map[string]string{
		"it cannot be started":          "/nowhere/program",
		"it is no program":              "/etc/passwd",
		"it ends without a word":        "/bin/true",
		"it fails":                      "/bin/false",
		"it is killed before it sends":  script(t, "kill -9 $$"),
		"it says nothing for a second":  script(t, "exec sleep 3"),
		"it sends something else":       script(t, "echo nonsense >&3; exit 0"),
		"it closes its socket and ends": script(t, "exec 3>&-; exit 0"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, r := newWorld(t), &Deleter{program: program}
			index := w.mustAttach("eth0")
			require.NoError(t, r.Delete(t.Context(), w.node, index))
			require.Empty(t, w.links())
			w.mustAttach("eth0")
			require.NoError(t, r.Delete(t.Context(), w.node, 99999), "one that is not there")
			require.Len(t, w.links(), 2)
		})
	}
}

func TestAChildThatComesTooLateDoesNoHarmToANewInterfaceOfTheName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	program, gate := late(t)
	index := w.mustAttach("eth0")
	require.NoError(t, (&Deleter{program: program}).Delete(t.Context(), w.node, index), "deleted without the child")
	require.Empty(t, w.links())
	again := w.mustAttach("eth0")
	require.NotEqual(t, index, again)
	ended(t, gate)
	require.Equal(t, []string{"eth0", "eth0"}, w.links())
}

func TestTheChildOutlivesAParentThatDied(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	program, gate := late(t)
	index := w.mustAttach("eth0")
	require.ErrorContains(t, call("start-and-die", path(w.node), program, 0, index), "signal: killed")
	require.Len(t, w.links(), 2, "nothing was sent yet")
	ended(t, gate)
	require.Eventually(t, func() bool { return len(w.links()) == 0 }, 30*time.Second, 5*time.Millisecond)
}

func TestAKillOfTheWholeGroupAfterwardsChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := plugin(t)
	for range 20 {
		index := w.mustAttach("eth0")
		require.NoError(t, call("delete-and-kill", path(w.node), r.program, 0, index))
		require.Empty(t, w.links())
	}
}

func TestProcess1NeedNotReap(t *testing.T) {
	t.Parallel()
	nstest.NeedRoot(t)
	w := newWorld(t)
	r := plugin(t)
	var indexes []int
	for i := range 20 {
		indexes = append(indexes, w.mustAttach(fmt.Sprint("eth", i)))
	}
	require.NoError(t, call("be-process-1", path(w.node), r.program, syscall.CLONE_NEWPID, indexes...))
	require.Empty(t, w.links())
}

func TestTwoHundredAtOnce(t *testing.T) {
	t.Parallel()
	n := 200
	if testing.Short() {
		n = 50
	}
	w, r := newWorld(t), plugin(t)
	nstest.Settle(t, w.node)
	before := nstest.Dump(w.node)
	indexes := make([]int, n)
	for i := range indexes {
		indexes[i] = w.mustAttach("eth" + strconv.Itoa(i))
	}
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i, index := range indexes {
		wg.Go(func() { errs[i] = r.Delete(t.Context(), w.node, index) })
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	require.Empty(t, w.links())
	require.Equal(t, before, nstest.Dump(w.node))
}

func TestTheNamespaceMayBeRemovedRightAfter(t *testing.T) {
	t.Parallel()
	nstest.NeedRoot(t)
	r := plugin(t)
	for range 20 {
		w := &world{t: t, pod: nstest.New(t)}
		var err error
		w.node, err = netns.New()
		require.NoError(t, err)
		index := w.mustAttach("eth0")
		// Another pair tells when the namespace has ended: its other end goes with it.
		_, err = veth.Create(t.Context(), veth.Pair{Host: veth.End{NS: w.pod, Name: "witness"}, Pod: veth.End{NS: w.node, Name: "witness"}})
		require.NoError(t, err)
		require.NoError(t, r.Delete(t.Context(), w.node, index))
		require.NoError(t, w.node.Close())
		h := nstest.Netlink(t, w.pod)
		require.Eventually(t, func() bool {
			_, err := h.LinkByName("witness")
			return errors.As(err, &netlink.LinkNotFoundError{})
		}, 20*time.Second, 5*time.Millisecond)
	}
}

func TestAChildSaysWhenItCannotSend(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	require.NoError(t, err)
	for name, program := range map[string]string{"in Go": self, "before Go": plugin(t).program} {
		for _, how := range []string{
			"3</dev/null 4<<<text",     // no socket
			"3>/dev/null 4<&-",         // no pipe
			"3>/dev/null 4</dev/null",  // no message
			"3<>/dev/null 4>/dev/null", // a pipe that cannot be read
		} {
			t.Run(name+" "+how, func(t *testing.T) {
				t.Parallel()
				out := script(t, fmt.Sprintf("exec -a %s %s %s", childName, program, how))
				p, err := os.StartProcess(out, []string{out}, &os.ProcAttr{})
				require.NoError(t, err)
				st, err := p.Wait()
				require.NoError(t, err)
				require.Equal(t, 2, st.ExitCode())
			})
		}
	}
}

func TestTheArgumentsOfOthersAreNotTakenForAChilds(t *testing.T) {
	t.Parallel()
	Child() // returns: this program has another name
	program := plugin(t).program
	for _, args := range [][]string{
		{""}, {"x"}, {"cniblock"}, {"cniblocks-rea"}, {"cniblocks-reaq"}, {"cniblocks-reaper"}, {"Cniblocks-reap"},
		{childName, ""}, {childName, childName}, {"bridge"}, {"bridge", childName},
	} {
		var stderr bytes.Buffer
		cmd := exec.Cmd{Path: program, Args: args, Env: []string{}, Stderr: &stderr}
		require.Error(t, cmd.Run(), "%q", args)
		require.Contains(t, stderr.String(), "a CNI plugin of cniblocks", "%q", args)
	}
}

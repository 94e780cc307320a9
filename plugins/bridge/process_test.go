package bridge_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/binaries"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/reference"
	"github.com/cniblocks/cniblocks/netns"
)

// execute runs a plugin binary in the node's namespace, as a runtime does.
func (w *world) execute(dir string, verb cni.Verb, id, ns, conf string) ([]byte, error) {
	cmd := exec.Command(filepath.Join(dir, "bridge"))
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+string(verb), "CNI_CONTAINERID="+id, "CNI_NETNS="+ns, "CNI_IFNAME=eth0", "CNI_PATH="+dir)
	cmd.Stdin = strings.NewReader(conf)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := w.node.Do(cmd.Run)
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s %s", verb, id, err, &out, &errs)
	}
	return out.Bytes(), err
}

func ours(t *testing.T) string {
	t.Helper()
	dir, err := binaries.Build()
	require.NoError(t, err)
	return dir
}

func theirs(t *testing.T) string {
	t.Helper()
	dir, err := reference.Build("bridge", "host-local")
	require.NoError(t, err)
	return dir
}

func TestSixtyFourColdADDsAtOnceAllSucceedWithDifferentAddresses(t *testing.T) {
	t.Parallel()
	w, dir := newWorld(t), ours(t)
	conf := w.conf(nil)
	pods := make([]*netns.NS, 64)
	for i := range pods {
		pods[i] = nstest.New(t)
	}
	var g errgroup.Group
	var mu sync.Mutex
	holder := map[string]string{}
	for i, pod := range pods {
		g.Go(func() error {
			id := fmt.Sprint("c", i)
			out, err := w.execute(dir, cni.ADD, id, path(pod), conf)
			if err != nil {
				return err
			}
			res, err := cni.ParseResult(out)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			for _, ip := range res.IPs {
				if other, taken := holder[ip.Address.String()]; taken {
					return fmt.Errorf("%s is given to %s and %s", ip.Address, other, id)
				}
				holder[ip.Address.String()] = id
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
	require.Len(t, holder, 128)
	for _, i := range []int{0, 31, 63} {
		reach(t, pods[i], outside4)
		reach(t, pods[i], outside6)
	}
}

func TestTwoHundredADDsAndDELsMixedLeaveNothing(t *testing.T) {
	t.Parallel()
	w, dir := newWorld(t), ours(t)
	conf := w.conf(nil)
	clean := w.settled(conf)
	pods := make(chan *netns.NS, 16)
	for range cap(pods) {
		pods <- nstest.New(t)
	}
	var g errgroup.Group
	g.SetLimit(cap(pods))
	for i := range 100 {
		g.Go(func() error {
			pod := <-pods
			defer func() { pods <- pod }()
			id := fmt.Sprint("c", i)
			_, add := w.execute(dir, cni.ADD, id, path(pod), conf)
			_, del := w.execute(dir, cni.DEL, id, path(pod), conf)
			return errors.Join(add, del)
		})
	}
	require.NoError(t, g.Wait())
	require.Equal(t, clean, w.dump())
}

func TestPodsOfTheReferenceAreCheckedAndDeletedWithoutATrace(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"iptables", "nftables"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			nstest.Need(t, nstest.IPTables, nstest.IP6Tables, nstest.NFTBridge)
			w, own, ref := newWorld(t), ours(t), theirs(t)
			keys := map[string]any{"ipMasqBackend": backend, "macspoofchk": true, "cniVersion": "1.0.0"}
			conf := w.conf(keys)
			// What the network keeps: made by an attachment of ours and by one of the reference's.
			pod := nstest.New(t)
			_, err := w.execute(ref, cni.ADD, "first", path(pod), conf)
			require.NoError(t, err)
			nstest.Settle(t, w.node)
			_, err = w.execute(own, cni.DEL, "first", path(pod), conf)
			require.NoError(t, err)
			clean := w.dump()

			out, err := w.execute(ref, cni.ADD, "old", path(pod), conf)
			require.NoError(t, err)
			reach(t, pod, outside4)
			require.NotEqual(t, clean, w.dump())
			_, err = w.execute(own, cni.CHECK, "old", path(pod), with(conf, "prevResult", json.RawMessage(out)))
			require.NoError(t, err)
			_, err = w.execute(own, cni.DEL, "old", path(pod), conf)
			require.NoError(t, err)
			require.Equal(t, clean, w.dump())
			require.Empty(t, w.leases())
		})
	}
}

func TestTheReferenceDeletesALeaseThatWeMade(t *testing.T) {
	t.Parallel()
	w, own, ref := newWorld(t), ours(t), theirs(t)
	conf := w.conf(map[string]any{"cniVersion": "1.0.0", "ipMasq": false})
	pod := nstest.New(t)
	out, err := w.execute(own, cni.ADD, "new", path(pod), conf)
	require.NoError(t, err)
	_, err = w.execute(ref, cni.CHECK, "new", path(pod), with(conf, "prevResult", json.RawMessage(out)))
	require.NoError(t, err)
	_, err = w.execute(ref, cni.DEL, "new", path(pod), conf)
	require.NoError(t, err)
	require.Empty(t, w.leases())
	require.NotContains(t, w.dump(), "cniblocks/testnet/new")
	_, err = w.execute(own, cni.ADD, "new", path(pod), conf)
	require.NoError(t, err)
}

func TestGCRemovesWhatTheReferenceLeftForAStaleOwner(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.IPTables, nstest.IP6Tables, nstest.NFTBridge)
	w, own, ref := newWorld(t), ours(t), theirs(t)
	conf := w.conf(map[string]any{"ipMasqBackend": "iptables", "macspoofchk": true})
	live, stale := nstest.New(t), nstest.New(t)
	_, err := w.execute(ref, cni.ADD, "live", path(live), conf)
	require.NoError(t, err)
	before := w.dump()
	_, err = w.execute(ref, cni.ADD, "stale", path(stale), conf)
	require.NoError(t, err)
	require.NoError(t, stale.Do(func() error { return run("ip", "link", "del", "eth0") }))
	gc := with(conf, "cni.dev/valid-attachments", []map[string]string{{"containerID": "live", "ifname": "eth0"}})
	_, err = w.execute(own, cni.GC, "", "", gc)
	require.NoError(t, err)
	require.Equal(t, leasesIn(before), leasesIn(w.dump()))
	require.Equal(t, before, w.dump())
	reach(t, live, outside4)
}

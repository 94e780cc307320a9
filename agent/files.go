//go:build linux

package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/node"
	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/flannel"
)

// mtu is what pods may send to whomever, in bytes; 0 is not known.
func (r *runner) mtu() int {
	least := 0
	for _, c := range *r.nets.Load() {
		if m := c.Node.MTU(peer.Peer{}); m != 0 && (least == 0 || m < least) {
			least = m
		}
	}
	return least
}

// files tells plugins what this node is, once the peers were applied, and again when it has changed. Where no pod may be
// attached they say why. What they hold is looked at once for each heartbeat, unless something else is to be in them.
func (r *runner) files() error {
	if !r.set || r.self == nil {
		return nil
	}
	f := node.File{Self: *r.self, Network: peer.Network{Prefixes: r.allPrefixes()}, MTU: r.mtu(), Agent: true, IPMasq: r.SNAT.Families.Any()}
	f.Blocked = r.blocked()
	if r.filed != nil && alike(r.filed, &f) {
		r.st.is(f, r.former)
		return nil
	}
	r.filed = nil
	errs := []error{r.subnetEnv(f), r.nodeFile(f)}
	r.st.is(f, r.former)
	if errors.Join(errs...) == nil && r.mended {
		errs = append(errs, r.conflist())
	}
	err := errors.Join(errs...)
	if err == nil {
		r.blocks = f.Blocked
		r.st.blocks(f.Blocked != "")
	}
	if err == nil && r.mended {
		r.st.complete()
		r.filed = &f
	}
	if err == nil && r.lost == nil {
		r.st.set(troubleLost, nil)
	}
	return err
}

// blocked is why no pod may be attached now.
func (r *runner) blocked() string {
	if r.lost != nil && r.self != nil {
		return fmt.Sprintf("the ranges %v are no longer this node's; 'cniblocks status' tells more", r.self.Pods)
	}
	return r.st.obstacle()
}

// block tells plugins at once that no pod may be attached any more, in a file that an earlier agent wrote too.
func (r *runner) block() {
	why := r.blocked()
	if why == "" || why == r.blocks { // [runner.files] says that pods may be attached again
		return
	}
	r.st.blocks(true)
	path := filepath.Join(node.Dir(r.StateDir, r.Network), "node.json")
	f, err := node.Read(r.NS, path)
	if err == nil && f.Agent && f.Blocked != why {
		f.Blocked = why
		err = node.Write(r.NS, path, f)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.st.set(troubleFiles, err)
		return
	}
	r.blocks, r.filed = why, nil
}

// alike reports whether plugins learn the same from both.
func alike(have, f *node.File) bool {
	return have.Self.Equal(f.Self) && have.MTU == f.MTU && have.Agent && have.IPMasq == f.IPMasq && have.Blocked == f.Blocked &&
		slices.Equal(have.Network.Prefixes, f.Network.Prefixes)
}

func (r *runner) nodeFile(f node.File) error {
	path := filepath.Join(node.Dir(r.StateDir, r.Network), "node.json")
	have, err := node.Read(r.NS, path)
	if err == nil && alike(&have, &f) {
		return nil
	}
	r.log.Info("the node file is written", "file", path, "ranges", f.Self.Pods, "mtu", f.MTU)
	return node.Write(r.NS, path, f)
}

func (r *runner) subnetEnv(f node.File) error {
	if r.SubnetEnv == "" {
		return nil
	}
	env := flannel.SubnetEnv{Networks: f.Network.Prefixes, MTU: f.MTU, IPMasq: f.IPMasq}
	for _, family := range inet.Families {
		env.Subnets = append(env.Subnets, f.Self.PodsOf(family)[:min(1, len(f.Self.PodsOf(family)))]...)
	}
	slices.SortStableFunc(env.Networks, func(a, b netip.Prefix) int { return a.Addr().BitLen() - b.Addr().BitLen() })
	return same(r.SubnetEnv, env.Format())
}

func (r *runner) conflist() error {
	if r.Conflist.From == "" {
		return nil
	}
	b, err := os.ReadFile(r.Conflist.From)
	if err != nil {
		return fmt.Errorf("conflist-from: %w", err)
	}
	return same(r.Conflist.To, b)
}

// same makes a file hold these bytes.
func same(path string, b []byte) error {
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, b) {
		return nil
	}
	return replace(path, 0o644, b)
}

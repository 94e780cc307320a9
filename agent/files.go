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

// files are what plugins and other programs learn of this node by: the node file, flannel's subnet.env, the conflist.
type files struct {
	*core
	nets  *carriers
	reg   *registration
	fw    *firewall
	filed *node.File // what is in them, since they were looked at last; nil: look
	why   string     // why no pod may be attached, as the node file says
}

// keep tells plugins what this node is, once the peers were applied, and again when it has changed. Where no pod may be
// attached they say why. What they hold is looked at once for each heartbeat, unless something else is to be in them.
func (s *files) keep() error {
	if s.phase < applied || s.self == nil {
		return nil
	}
	f := node.File{Self: *s.self, Network: peer.Network{Prefixes: s.allPrefixes()}, MTU: s.nets.mtu(), Agent: true, IPMasq: s.SNAT.Families.Any()}
	f.Blocked = s.obstacle()
	s.st.is(f, s.former)
	if s.filed != nil && alike(s.filed, &f) {
		return nil
	}
	s.filed = nil
	err := errors.Join(s.subnetEnv(f), s.nodeFile(f))
	open := s.fw.state != closed
	if err == nil && open {
		err = s.conflist()
	}
	if err != nil {
		return err
	}
	s.why = f.Blocked
	s.st.blocks(f.Blocked != "")
	if open {
		s.phase, s.filed = complete, &f
		s.st.complete()
	}
	if !s.reg.isLost() {
		s.st.set(troubleLost, nil)
	}
	return nil
}

// obstacle is why no pod may be attached now.
func (s *files) obstacle() string {
	if s.reg.isLost() && s.self != nil {
		return fmt.Sprintf("the ranges %s are no longer this node's; 'cniblocks status' tells more", listed(s.self.Pods))
	}
	return s.st.obstacle()
}

func (s *files) path() string { return filepath.Join(node.Dir(s.StateDir, s.Network), "node.json") }

// block tells plugins at once that no pod may be attached any more, in a file that an earlier agent wrote too.
func (s *files) block() {
	why := s.obstacle()
	if why == "" || why == s.why { // [files.keep] says that pods may be attached again
		return
	}
	s.st.blocks(true)
	f, err := node.Read(s.NS, s.path())
	if err == nil && f.Agent && f.Blocked != why {
		f.Blocked = why
		err = node.Write(s.NS, s.path(), f)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.st.set(troubleFiles, err)
		return
	}
	s.why, s.filed = why, nil
}

// alike reports whether plugins learn the same from both.
func alike(have, f *node.File) bool {
	return have.Self.Equal(f.Self) && have.MTU == f.MTU && have.Agent && have.IPMasq == f.IPMasq && have.Blocked == f.Blocked &&
		slices.Equal(have.Network.Prefixes, f.Network.Prefixes)
}

func (s *files) nodeFile(f node.File) error {
	have, err := node.Read(s.NS, s.path())
	if err == nil && alike(&have, &f) {
		return nil
	}
	s.log.Info("the node file is written", "file", s.path(), "ranges", f.Self.Pods, "mtu", f.MTU)
	return node.Write(s.NS, s.path(), f)
}

func (s *files) subnetEnv(f node.File) error {
	if s.SubnetEnv == "" {
		return nil
	}
	env := flannel.SubnetEnv{Networks: f.Network.Prefixes, MTU: f.MTU, IPMasq: f.IPMasq}
	for _, family := range inet.Families {
		env.Subnets = append(env.Subnets, f.Self.PodsOf(family)[:min(1, len(f.Self.PodsOf(family)))]...)
	}
	slices.SortStableFunc(env.Networks, func(a, b netip.Prefix) int { return a.Addr().BitLen() - b.Addr().BitLen() })
	return same(s.SubnetEnv, env.Format())
}

func (s *files) conflist() error {
	if s.Conflist.From == "" {
		return nil
	}
	b, err := os.ReadFile(s.Conflist.From)
	if err != nil {
		return fmt.Errorf("conflist-from: %w", err)
	}
	return same(s.Conflist.To, b)
}

// same makes a file hold these bytes.
func same(path string, b []byte) error {
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, b) {
		return nil
	}
	return replace(path, 0o644, b)
}

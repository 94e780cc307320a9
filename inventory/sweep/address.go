//go:build linux

package sweep

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/cniblocks/cniblocks/forward"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/inventory"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/masq"
)

// addrs finds addresses of ours on devices that stay: gateway addresses on bridges of others, mostly.
func (s *sweeper) addrs() error {
	links, err := s.c.Links("")
	if err != nil {
		return err
	}
	all, err := s.c.Addrs(0)
	if err != nil {
		return err
	}
	for _, l := range links {
		if s.gone[l.Index] {
			continue
		}
		keeps := s.keepsAddrs(l)
		for _, a := range all {
			named := s.Network != "" && s.Found.OfPrefix(a.Prefix) == s.Network
			switch {
			case a.Link != l.Index || a.Proto != link.Proto:
				continue
			case keeps && !named, !named && !s.only() && !s.ofNetwork(a.Prefix):
				continue
			}
			s.add(Step{Network: s.Network, Kind: "address", Name: a.Prefix.String(), Note: "on " + l.Name + ", which stays", last: true,
				do: s.send(rtnl.DelAddr(a))})
		}
	}
	return nil
}

// keepsAddrs: what is ours and stays keeps its addresses, and so does an interface that we were run in as a pod.
func (s *sweeper) keepsAddrs(l rtnl.Link) bool {
	for _, b := range s.Found.Bridges {
		if b.Index == l.Index && b.Owner == inventory.Ours {
			return true
		}
	}
	for _, a := range s.Found.Attachments {
		if a.Index == l.Index {
			return a.Owner != inventory.Ours || !s.wants(a.Network)
		}
	}
	for _, d := range s.Found.Devices {
		if d.Index == l.Index && d.Owner == inventory.Ours {
			return true
		}
	}
	return false
}

// ofNetwork reports whether the network has pods, or could have, in a subnet.
func (s *sweeper) ofNetwork(p netip.Prefix) bool {
	for _, r := range s.Found.Routes { // to the subnet of a gateway outside of it
		if p.IsSingleIP() && r.Src == p.Addr() && r.Dst != p && s.ofNetwork(r.Dst) {
			return true
		}
	}
	for _, l := range s.Found.Leases {
		if s.wants(l.Network) && p.Contains(l.Addr) {
			return true
		}
	}
	for _, q := range s.Found.SNAT {
		for _, src := range q.Sources {
			if q.Owner == inventory.Ours && s.wants(q.Network) && p.Contains(src.First) {
				return true
			}
		}
	}
	for _, a := range s.Found.Attachments {
		for _, x := range podAddrs(a) {
			if a.Owner == inventory.Ours && s.wants(a.Network) && p.Contains(x.Addr()) {
				return true
			}
		}
	}
	return false
}

func podAddrs(a inventory.Attachment) []netip.Prefix {
	if a.Pod == nil {
		return nil
	}
	return a.Pod.Addrs
}

// routes finds those of ours that do not go with their device. Those of host-gw networks bear no network's name.
func (s *sweeper) routes() error {
	all, err := s.c.Routes(rtnl.RouteFilter{Proto: link.Proto})
	if err != nil {
		return err
	}
	known := map[string]inventory.Route{}
	for _, r := range s.Found.Routes {
		known[fmt.Sprint(r.Dst, r.Metric, r.Table)] = r
	}
	kept, unnamed := 0, s.takesUnnamed()
	for _, r := range all {
		k := known[fmt.Sprint(r.Dst, r.Metric, r.Table)]
		network := k.Network
		switch {
		case s.gone[r.Link]:
			continue
		case network != "" && !s.wants(network):
			continue
		case network == "" && !unnamed && (r.Via.IsValid() || !s.ofNetwork(r.Dst)):
			kept++
			continue
		}
		note := "dev " + k.Device
		if r.Via.IsValid() {
			note = "via " + r.Via.String() + " " + note
		}
		s.add(Step{Network: s.Network, Kind: "route", Name: r.Dst.String(), Note: note,
			do: s.send(rtnl.DelRoute(r))})
	}
	if kept > 0 && s.usesDirect(s.Network) {
		s.keep(s.Network, "routes", fmt.Sprint(kept), "several networks route directly here and a route does not say whose it is; use 'cniblocks overlay down --conf FILE'")
	}
	return nil
}

// takesUnnamed reports whether routes that no device gives a network are of this one: it is the only one that routes
// directly, or the only one of ours that there is.
func (s *sweeper) takesUnnamed() bool {
	if s.Network == "" {
		return true
	}
	for _, network := range s.Found.Networks() {
		if network != s.Network && s.usesDirect(network) {
			return false
		}
	}
	return s.usesDirect(s.Network) || s.only()
}

func (s *sweeper) usesDirect(network string) bool {
	_, err := os.Stat(filepath.Join(s.StateDir, network, "host-gw.stamp"))
	return err == nil
}

// firewall removes SNAT in both backends, and passages through FORWARD.
func (s *sweeper) firewall() {
	for _, q := range s.Found.SNAT {
		if q.Owner != inventory.Ours || !s.wants(q.Network) {
			continue
		}
		var b masq.Backend = masq.NFT{NS: s.NS}
		if q.Backend != b.Name() {
			b = masq.IPTables{NS: s.NS}
		}
		s.add(Step{Network: q.Network, Kind: "SNAT", Name: q.Network, Note: "by " + q.Backend,
			do: func(ctx context.Context) error { return b.Remove(ctx, q.Network) }})
	}
	seen := map[string]bool{}
	for _, f := range s.Found.Forward {
		if !s.wants(f.Network) || seen[f.Network] {
			continue
		}
		seen[f.Network] = true
		s.add(Step{Network: f.Network, Kind: "forward rules", Name: f.Network, Note: "table " + f.Table,
			do: func(ctx context.Context) error { return forward.Passage{NS: s.NS}.Remove(ctx, f.Network) }})
	}
}

// state removes what plugins remember until the next boot.
func (s *sweeper) state() {
	for _, d := range s.Found.State {
		switch {
		case !s.wants(d.Network), !s.Disk && !s.here(d.Network):
		case !s.Disk && !d.Here:
			s.keep(d.Network, "state", d.Path, "it may be that of another namespace")
		default:
			s.add(Step{Network: d.Network, Kind: "state", Name: d.Path, do: func(context.Context) error {
				return within(filepath.Dir(d.Path), func(root *os.Root) error { return root.RemoveAll(d.Network) })
			}})
		}
	}
}

// here reports whether the network has more than directories, or was asked for by its name.
func (s *sweeper) here(network string) bool {
	return s.Network == network || slices.Contains(s.Found.OurNetworks(), network)
}

// within works below a directory, out of which no symbolic link leads.
func within(dir string, do func(*os.Root) error) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	return errors.Join(do(root), root.Close())
}

//go:build linux

package attach

import (
	"cmp"
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/ipam"
	"github.com/cniblocks/cniblocks/link"
)

// Leased reports whether an address of the subnet is leased to a pod of this network, or may be.
func (p *Pod) Leased(ctx context.Context, subnet netip.Prefix) bool {
	if !p.HostLocal() {
		return false
	}
	held, err := p.leases().Leases(ctx)
	return err != nil || slices.ContainsFunc(held, func(l ipam.Held) bool { return subnet.Contains(l.Addr) })
}

// WarnShared names another network that hands out the same addresses on the same wire, which the plugin tells by the host
// end of who holds one, nil for all of the node: each pod sends to whichever of two answers first. It is seen by the leases below the same data
// directory: those of the addresses that are given, or of all that this network may hand out. where names the wire.
func (p *Pod) WarnShared(ctx context.Context, where string, ips []cni.IP, same func(link.Link) bool) {
	if !p.HostLocal() {
		return
	}
	dataDir := cmp.Or(p.conf.IPAM.DataDir, ipam.DefaultDataDir)
	networks, _ := os.ReadDir(dataDir) // host-local says what is wrong with it
	for _, n := range networks {
		other := n.Name()
		if !n.IsDir() || other == p.Network || other[0] == '.' {
			continue
		}
		for a := range p.alsoIn(filepath.Join(dataDir, other), ips) {
			o, err := ipam.Dir{DataDir: dataDir, Network: other}.Holder(a)
			if err != nil {
				continue
			}
			if l, err := link.Get(ctx, p.Node, link.HostName(other, o.ContainerID, o.IfName)); err == nil && (same == nil || same(l)) {
				p.Warn(`netconf: key "ipam": networks %q and %q hand out the same addresses on %s, such as %s: give each a range of its own`, p.Network, other, where, a)
				break
			}
		}
	}
}

// alsoIn yields those of our addresses that are leased in another network's directory: of the given ones, or of all.
func (p *Pod) alsoIn(dir string, ips []cni.IP) func(yield func(netip.Addr) bool) {
	return func(yield func(netip.Addr) bool) {
		for _, ip := range ips {
			a := ip.Address.Addr()
			if _, err := os.Lstat(filepath.Join(dir, a.String())); err == nil && !yield(a) {
				return
			}
		}
		if ips != nil {
			return
		}
		leases, _ := os.ReadDir(dir)
		for _, l := range leases {
			a, err := netip.ParseAddr(l.Name())
			ours := func(pool ipam.Pool) bool { _, ok := pool.Range(a); return ok }
			if err == nil && slices.ContainsFunc(p.Pools, ours) && !yield(a) {
				return
			}
		}
	}
}

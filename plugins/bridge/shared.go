package bridge

import (
	"cmp"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/ipam"
	"github.com/cniblocks/cniblocks/link"
)

// warnShared names another network that hands out the same addresses on this bridge, in the same VLAN of it: each pod sends
// to whichever of two answers first. It is seen by the leases below the same data directory: those of the addresses that are
// given, or of all that this network may hand out.
func (j *job) warnShared(br bridge.State, ips []cni.IP) {
	if j.conf.IPAM.Type != hostLocal {
		return
	}
	dataDir := cmp.Or(j.conf.IPAM.DataDir, ipam.DefaultDataDir)
	networks, _ := os.ReadDir(dataDir) // host-local says what is wrong with it
	for _, n := range networks {
		other := n.Name()
		if !n.IsDir() || other == j.Network || other[0] == '.' {
			continue
		}
		for a := range j.alsoIn(filepath.Join(dataDir, other), ips) {
			if j.onSameBridge(br, dataDir, other, a) {
				j.Warn(`netconf: key "ipam": networks %q and %q hand out the same addresses on bridge %s, such as %s: give each a range of its own, or a bridge of its own`, j.Network, other, br.Name, a)
				break
			}
		}
	}
}

// alsoIn yields those of our addresses that are leased in another network's directory: of the given ones, or of all.
func (j *job) alsoIn(dir string, ips []cni.IP) func(yield func(netip.Addr) bool) {
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
			ours := func(p ipam.Pool) bool { _, ok := p.Range(a); return ok }
			if err == nil && slices.ContainsFunc(j.pools, ours) && !yield(a) {
				return
			}
		}
	}
}

// onSameBridge reports whether who holds an address in another network is on our bridge, in our VLAN.
func (j *job) onSameBridge(br bridge.State, dataDir, network string, a netip.Addr) bool {
	o, err := ipam.Dir{DataDir: dataDir, Network: network}.Holder(a)
	if err != nil {
		return false
	}
	c, err := rtnl.Open(j.host)
	if err != nil {
		return false
	}
	l, err := c.LinkByName(link.HostName(network, o.ContainerID, o.IfName))
	if err != nil || l.Master != br.Index {
		return false
	}
	if !br.VLANFiltering {
		return true
	}
	vlans, err := c.VLANs(l.Index)
	own := cmp.Or(j.port.VLAN, 1)
	return err != nil || slices.ContainsFunc(vlans, func(v rtnl.VLAN) bool { return v.PVID && v.ID == own })
}

//go:build linux

package scratch

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/cniblocks/cniblocks/netns"
)

// Addresses of the uplink between a node and the outside (RFC 2544, RFC 5180: reserved for benchmarks). The outside has no
// route to pods: a reply to a pod reaches it only if the node translated its address.
var (
	NodeAddrs    = []netip.Prefix{netip.MustParsePrefix("198.18.0.1/15"), netip.MustParsePrefix("2001:2::1/64")}
	OutsideAddrs = []netip.Prefix{netip.MustParsePrefix("198.18.0.2/15"), netip.MustParsePrefix("2001:2::2/64")}
)

// Uplink is the name of a node's link to the outside.
const Uplink = "up0"

// World is a node with its uplink, the outside at the other end, and a directory for the state of plugins.
type World struct {
	Node, Outside *netns.NS
	Dir           string
}

// NewWorld makes a node that never saw a plugin.
func NewWorld() (*World, error) {
	dir, err := os.MkdirTemp(Dir(), "world-")
	if err != nil {
		return nil, err
	}
	w := &World{Dir: dir}
	if w.Outside, err = netns.New(); err != nil {
		return nil, err
	}
	if w.Node, err = netns.New(); err != nil {
		w.Outside.Close()
		return nil, err
	}
	if err := w.wire(); err != nil {
		return nil, errors.Join(fmt.Errorf("wire the node: %w", err), w.Close())
	}
	return w, nil
}

// Close ends the node, the outside and all that they hold.
func (w *World) Close() error {
	return errors.Join(w.Node.Close(), w.Outside.Close(), os.RemoveAll(w.Dir))
}

// Quiesce waits until the kernel has taken down the namespaces that were closed before: it does so in the background, in
// order, and under the lock that every plugin needs.
func Quiesce() error {
	const probe = "cb-probe"
	last, err := netns.New()
	if err != nil {
		return err
	}
	here, err := netns.Current()
	if err != nil {
		last.Close()
		return err
	}
	defer here.Close()
	err = here.Do(func() error { return AddVeth(probe, probe, last) })
	if err := errors.Join(err, last.Close()); err != nil {
		return err
	}
	for there := true; there; time.Sleep(10 * time.Millisecond) {
		if there, err = HasLink(here, probe); err != nil {
			return err
		}
	}
	return nil
}

func (w *World) wire() error {
	err := w.Node.Do(func() error {
		for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
			if err := Sysctl(key, "0"); err != nil {
				return err
			}
		}
		return AddVeth(Uplink, "eth0", w.Outside)
	})
	if err != nil {
		return err
	}
	return errors.Join(
		w.Node.Do(func() error { return errors.Join(Up("lo"), Up(Uplink, NodeAddrs...)) }),
		w.Outside.Do(func() error { return errors.Join(Up("lo"), Up("eth0", OutsideAddrs...)) }))
}

// AddVeth makes a pair: name in the namespace of the calling thread, peer in the other.
func AddVeth(name, peer string, other *netns.NS) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: peer, PeerNamespace: netlink.NsFd(other.Fd())}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("add veth %s: %w", name, err)
	}
	return nil
}

// Up gives a link of the calling thread's namespace its addresses, usable at once, and sets it up.
func Up(name string, addrs ...netip.Prefix) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	for _, p := range addrs {
		addr := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			addr.Flags = 0x02 // IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("address %s on %s: %w", p, name, err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

//go:build linux

package nstest

import (
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/netns"
)

// Feature is something that not every kernel has. Besides those below, the name of every kind of link that ip-link(8)
// lists is one, such as "gre" or "ip6gretap".
type Feature string

// The features that tests ask for.
const (
	Bridge        Feature = "bridge"
	Dummy         Feature = "dummy"
	Geneve        Feature = "geneve"
	GRE           Feature = "gre"
	GRETap        Feature = "gretap"
	IP6GRE        Feature = "ip6gre"
	IP6GRETap     Feature = "ip6gretap"
	IP6Tnl        Feature = "ip6tnl"
	IFB           Feature = "ifb"
	IPIP          Feature = "ipip"
	IPTables      Feature = "iptables"  // the program, and a nat table that it can list
	IP6Tables     Feature = "ip6tables" // the same for IPv6
	IPVLAN        Feature = "ipvlan"
	Macvlan       Feature = "macvlan"
	Netem         Feature = "netem"      // the queueing discipline
	NFT           Feature = "nft"        // an inet nat chain with a masquerade rule
	NFTARP        Feature = "nft_arp"    // a filter chain of the arp family
	NFTBridge     Feature = "nft_bridge" // a filter chain of the bridge family
	SIT           Feature = "sit"
	Shaping       Feature = "shaping" // ifb, and the queueing disciplines tbf and ingress
	Tun           Feature = "tun"     // by /dev/net/tun
	VLAN          Feature = "vlan"
	VLANFiltering Feature = "vlan_filtering" // of bridges
	VRF           Feature = "vrf"
	VXLAN         Feature = "vxlan"
	WireGuard     Feature = "wireguard"
)

// NeedRoot skips the test where this process cannot make a namespace.
func NeedRoot(t testing.TB) {
	t.Helper()
	if err := mayMake(); err != nil {
		t.Skipf("lane: needs root, runs in the namespace lane (%v)", err)
	}
}

var mayMake = sync.OnceValue(func() error {
	ns, err := netns.New()
	if err == nil {
		err = ns.Close()
	}
	return err
})

// Need skips the test where the running kernel lacks a feature. The lanes of `make test` read the words of the reason:
// what is skipped by it must run in the virtual machine.
func Need(t testing.TB, features ...Feature) {
	t.Helper()
	NeedRoot(t)
	for _, f := range features {
		if err := probeOnce(f); err != nil {
			t.Logf("%s: %v", f, err)
			t.Skipf("lane: needs %s, runs in the vm lane", f)
		}
	}
}

// Has reports whether the running kernel has the feature.
func Has(f Feature) bool { return mayMake() == nil && probeOnce(f) == nil }

var probes sync.Map // of Feature to func() error

func probeOnce(f Feature) error {
	p, _ := probes.LoadOrStore(f, sync.OnceValue(func() error { return probe(f) }))
	return p.(func() error)()
}

func probe(f Feature) error {
	ns, err := netns.New()
	if err != nil {
		return err
	}
	defer ns.Close()
	switch f {
	case Tun:
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Close(fd)
		}
		return err
	case VLANFiltering:
		return probeVLANFiltering(ns)
	case Netem:
		return probeQdiscs(ns, func(a netlink.QdiscAttrs) netlink.Qdisc {
			return netlink.NewNetem(a, netlink.NetemQdiscAttrs{Latency: 1})
		})
	case Shaping:
		if err := probeLink(ns, "ifb"); err != nil {
			return err
		}
		return probeQdiscs(ns, func(a netlink.QdiscAttrs) netlink.Qdisc {
			return &netlink.Tbf{QdiscAttrs: a, Rate: 1e6, Limit: 1e5, Buffer: 1e5}
		}, func(a netlink.QdiscAttrs) netlink.Qdisc {
			a.Handle, a.Parent = netlink.MakeHandle(0xffff, 0), netlink.HANDLE_INGRESS
			return &netlink.Ingress{QdiscAttrs: a}
		})
	case NFT:
		return probeNFT(ns, nftables.Table{Name: "probe", Family: nftables.TableFamilyINet}, nftables.ChainTypeNAT,
			nftables.ChainHookPostrouting, &expr.Masq{})
	case NFTBridge:
		return probeNFT(ns, nftables.Table{Name: "probe", Family: nftables.TableFamilyBridge}, nftables.ChainTypeFilter,
			nftables.ChainHookPrerouting, &expr.Verdict{Kind: expr.VerdictAccept})
	case NFTARP:
		return probeNFT(ns, nftables.Table{Name: "probe", Family: nftables.TableFamilyARP}, nftables.ChainTypeFilter,
			nftables.ChainHookRef(0), &expr.Verdict{Kind: expr.VerdictAccept}) // NF_ARP_IN
	case IPTables, IP6Tables:
		return ns.Do(func() error { return exec.Command(string(f), "-w", "-t", "nat", "-S").Run() })
	}
	return probeLink(ns, string(f))
}

// probeLink asks for a link of that kind without any parameter. A kernel without the kind says so before it looks at them
// (rtnetlink(7): EOPNOTSUPP); others may well refuse for another reason.
func probeLink(ns *netns.NS, kind string) error {
	h, err := handle(ns)
	if err != nil {
		return err
	}
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "probe"
	if kind == string(IPVLAN) {
		attrs.ParentIndex = 1 // else the package asks nobody; no kernel makes one on the loopback
	}
	err = h.LinkAdd(&netlink.GenericLink{LinkAttrs: attrs, LinkType: kind})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("link of kind %q: %w", kind, err)
	}
	return nil
}

func probeVLANFiltering(ns *netns.NS) error {
	h, err := handle(ns)
	if err != nil {
		return err
	}
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "probe"
	on := true
	if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, VlanFiltering: &on}); err != nil {
		return err
	}
	l, err := h.LinkByName("probe")
	if err != nil {
		return err
	}
	if b := l.(*netlink.Bridge); b.VlanFiltering == nil || !*b.VlanFiltering {
		return errors.New("the kernel takes the flag and ignores it")
	}
	return nil
}

func probeQdiscs(ns *netns.NS, of ...func(netlink.QdiscAttrs) netlink.Qdisc) error {
	h, err := handle(ns)
	if err != nil {
		return err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	attrs := netlink.QdiscAttrs{LinkIndex: lo.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
	for _, q := range of {
		if err := h.QdiscAdd(q(attrs)); err != nil {
			return err
		}
	}
	return nil
}

func probeNFT(ns *netns.NS, table nftables.Table, typ nftables.ChainType, hook *nftables.ChainHook, e expr.Any) error {
	c, err := nftables.New(nftables.WithNetNSFd(ns.Fd()))
	if err != nil {
		return err
	}
	t := c.AddTable(&table)
	chain := c.AddChain(&nftables.Chain{Name: "probe", Table: t, Type: typ, Hooknum: hook, Priority: nftables.ChainPriorityFilter})
	c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: []expr.Any{e}})
	return c.Flush()
}

//go:build linux

package bridge

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/netns"
)

// A node answers ARP for its addresses on every link, unless arp_ignore of that link says otherwise. In its own subnet a
// gateway is nobody else's. A far one may be the router's of some other wire, so that requests for it which come in by
// another device than its own are dropped: for each device a rule that accepts them, after all of these one for each address
// that drops them.
const arpChain = "input"

func arp() nft.Table { return nft.Table{Family: nft.ARP, Name: mark.Word} }

func arpChainOf(t nft.Table) nft.Chain {
	return nft.Chain{Table: t, Name: arpChain, Hook: nft.Hook{Type: "filter", Num: nft.ARPIn, Policy: nft.Accept}}
}

func arpRequest(a netip.Addr) nft.Exprs {
	const operation, target = 6, 24 // RFC 826, for Ethernet and IPv4
	return nft.Exprs{}.Payload(unix.NFT_PAYLOAD_NETWORK_HEADER, operation, 2, unix.NFT_REG_1).Equal([]byte{0, 1}).
		Payload(unix.NFT_PAYLOAD_NETWORK_HEADER, target, 4, unix.NFT_REG_1).Equal(a.AsSlice())
}

func arpRule(a netip.Addr, device string) nft.Rule {
	r := nft.Rule{Table: arp(), Chain: arpChain}
	if device == "" {
		r.Comment, r.Exprs = mark.Word+" "+a.String(), arpRequest(a).Verdict(nft.Drop)
	} else {
		name := append([]byte(device), make([]byte, unix.IFNAMSIZ-len(device))...)
		r.Comment, r.Exprs = mark.Word+" "+a.String()+" "+device, arpRequest(a).InName().Equal(name).Verdict(nft.Accept)
	}
	return r
}

// ofRule is the address and the device that a rule is about.
func ofRule(r nft.Rule) (a netip.Addr, device string, ok bool) {
	rest, ok := strings.CutPrefix(r.Comment, mark.Word+" ")
	address, device, _ := strings.Cut(rest, " ")
	a, err := netip.ParseAddr(address)
	return a, device, ok && err == nil
}

// noARP reports whether this kernel's nftables do not look at ARP.
func noARP(err error) bool {
	return errors.Is(err, errors.ErrUnsupported) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, fs.ErrNotExist)
}

func has(rules []nft.Rule, want nft.Rule) bool {
	return slices.ContainsFunc(rules, func(r nft.Rule) bool { return r.Comment == want.Comment && r.Exprs.String() == want.Exprs.String() })
}

// hide keeps the node from answering for the address elsewhere than on the device. Where the kernel cannot, it answers.
func (d Gateways) hide(ctx context.Context, a netip.Addr) error {
	c, err := nft.Open(d.NS)
	if err != nil {
		return except(err, noARP)
	}
	accept, drop := arpRule(a, d.Name), arpRule(a, "")
	err = c.Update(ctx, func(b *nft.Batch) error {
		rules, err := c.Rules(arp(), arpChain)
		if err != nil {
			return err
		}
		known, dropped := has(rules, accept), has(rules, drop)
		if known && dropped {
			return nil
		}
		b.AddTable(arp())
		b.AddChain(arpChainOf(arp()))
		if !known {
			b.InsertRule(accept)
		}
		if !dropped {
			b.AppendRule(drop)
		}
		return nil
	})
	return except(err, noARP)
}

// hidden reports whether hide has done its work, or could not.
func (d Gateways) hidden(a netip.Addr) (bool, error) {
	c, err := nft.Open(d.NS)
	if err != nil {
		return true, except(err, noARP)
	}
	rules, err := c.Rules(arp(), arpChain)
	if err == nil && has(rules, arpRule(a, d.Name)) && has(rules, arpRule(a, "")) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	probe := c.Try(func(b *nft.Batch) {
		chain := arpChainOf(nft.Table{Family: nft.ARP, Name: mark.Word + "-probe"})
		b.AddTable(chain.Table)
		b.AddChain(chain)
	})
	return noARP(probe), nil
}

func except(err error, is func(error) bool) error {
	if err != nil && is(err) {
		return nil
	}
	return err
}

// Hidden is a far gateway that the node answers for by ARP on its device alone.
type Hidden struct {
	Addr   netip.Addr
	Device string
}

// ListHidden lists them, also those whose device is gone.
func ListHidden(_ context.Context, ns *netns.NS) (list []Hidden, err error) {
	c, err := nft.Open(ns)
	if err != nil {
		return nil, except(err, noARP)
	}
	rules, err := c.Rules(arp(), arpChain)
	for _, r := range rules {
		if a, device, ok := ofRule(r); ok && device != "" {
			list = append(list, Hidden{a, device})
		}
	}
	return list, except(err, noARP)
}

// SweepARP removes the rules about far gateways that are not on their device any more, and with the last one their table.
func SweepARP(ctx context.Context, ns *netns.NS) error {
	n, err := nft.Open(ns)
	if err != nil {
		return except(err, noARP)
	}
	c, err := rtnl.Open(ns)
	if err != nil {
		return err
	}
	err = n.Update(ctx, func(b *nft.Batch) error {
		rules, err := n.Rules(arp(), arpChain)
		if err != nil || len(rules) == 0 {
			return err
		}
		addrs, err := c.Addrs(0)
		if err != nil {
			return err
		}
		links, err := c.Links("")
		if err != nil {
			return err
		}
		bears := func(device string, a netip.Addr) bool {
			i := slices.IndexFunc(links, func(l rtnl.Link) bool { return l.Name == device })
			return i >= 0 && slices.ContainsFunc(addrs, func(h rtnl.Addr) bool { return h.Link == links[i].Index && h.Prefix.Addr() == a })
		}
		used := map[netip.Addr]bool{}
		left := slices.DeleteFunc(slices.Clone(rules), func(r nft.Rule) bool {
			a, device, ok := ofRule(r)
			used[a] = used[a] || ok && device != "" && bears(device, a)
			return ok && device != "" && !bears(device, a)
		})
		left = slices.DeleteFunc(left, func(r nft.Rule) bool {
			a, device, ok := ofRule(r)
			return ok && device == "" && !used[a]
		})
		if len(left) == 0 {
			b.DelTable(arp())
			return nil
		}
		for _, r := range rules {
			if !slices.ContainsFunc(left, func(l nft.Rule) bool { return l.Handle == r.Handle }) {
				b.DelRule(r)
			}
		}
		return nil
	})
	return except(err, noARP)
}

//go:build linux

package spoof

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/netns"
)

// What the bridge plugin of containernetworking/plugins v1.9.1 makes for macspoofchk (its package pkg/link): in table
// bridge nat a chain for the interface that PREROUTING jumps to, and one for the address that this jumps to.
const refBase = "PREROUTING"

func refTable() nft.Table { return nft.Table{Family: nft.Bridge, Name: "nat"} }

// refChains is false if the kernel takes no chains of such names, so that there are none.
func refChains(containerID, ifName string) (port, mac string, ok bool) {
	port = "cni-br-iface-" + containerID + "-" + ifName
	mac = port + "-mac"
	return port, mac, len(mac) < unix.NFT_NAME_MAXLEN
}

// HasReference reports whether the reference's guard of an attachment is in place for that port and address.
func HasReference(_ context.Context, ns *netns.NS, containerID, ifName string, p Port) (bool, error) {
	portChain, macChain, ok := refChains(containerID, ifName)
	if !ok {
		return false, nil
	}
	c, err := nft.Open(ns)
	if err != nil {
		return false, p.fail(err)
	}
	base, err := c.Rules(refTable(), refBase)
	if err != nil {
		return false, p.fail(err)
	}
	middle, err := c.Rules(refTable(), portChain)
	if err != nil {
		return false, p.fail(err)
	}
	last, err := c.Rules(refTable(), macChain)
	if err != nil {
		return false, p.fail(err)
	}
	own := nft.Exprs{}.InName().Equal([]byte(portKey(p.Name)))
	return slices.ContainsFunc(base, func(r nft.Rule) bool { return r.Exprs.Jumps() == portChain && r.Exprs.Has(own) }) &&
		slices.ContainsFunc(middle, func(r nft.Rule) bool { return r.Exprs.Jumps() == macChain }) &&
		len(last) > 1 && last[0].Exprs.Has(nft.Exprs{}.SourceMAC().Equal(p.MAC[:])) && last[len(last)-1].Exprs.Refuses(), nil
}

// RemoveReference removes the reference's guard of an attachment, and its table if that leaves it as the reference makes
// it at first. Where there is nothing, it asks the kernel in one write.
func RemoveReference(ctx context.Context, ns *netns.NS, containerID, ifName string) error {
	portChain, macChain, ok := refChains(containerID, ifName)
	if !ok {
		return nil
	}
	if err := removeReference(ctx, ns, portChain, macChain); err != nil && !nft.Missing(err) {
		return fmt.Errorf("remove the reference plugin's spoof check of container %s, interface %s: %w", containerID, ifName, err)
	}
	return nil
}

func removeReference(ctx context.Context, ns *netns.NS, portChain, macChain string) error {
	c, err := nft.Open(ns)
	if err != nil {
		return err
	}
	ask := func() (present []string, err error) {
		answers, err := c.Query(nft.GetChain(refTable(), portChain), nft.GetChain(refTable(), macChain))
		if err != nil {
			return nil, err
		}
		for i, name := range []string{portChain, macChain} {
			if answers[i].Err == nil {
				present = append(present, name)
			} else if !errors.Is(answers[i].Err, fs.ErrNotExist) {
				return nil, answers[i].Err
			}
		}
		return present, nil
	}
	if present, err := ask(); err != nil || len(present) == 0 {
		return err
	}
	return c.Update(ctx, func(b *nft.Batch) error {
		present, err := ask()
		if err != nil || len(present) == 0 {
			return err
		}
		base, err := c.Rules(refTable(), refBase)
		if err != nil {
			return err
		}
		left := len(base)
		for _, r := range base {
			if r.Exprs.Jumps() == portChain {
				b.DelRule(r)
				left--
			}
		}
		for _, name := range present { // the port's chain first: it refers to the other
			b.DelChain(refTable(), name)
		}
		if left > 0 {
			return nil
		}
		return dropPristine(c, b, present)
	})
}

// dropPristine removes the table if besides the chains that go it holds only the base chain that the reference makes.
func dropPristine(c *nft.Conn, b *nft.Batch, gone []string) error {
	all, err := c.Chains(nft.Bridge)
	if err != nil {
		return err
	}
	base := nft.Chain{Table: refTable(), Name: refBase, Hook: nft.Hook{Type: "filter", Num: nft.Prerouting, Priority: -300, Policy: nft.Accept}}
	for _, ch := range all {
		if ch.Table == refTable() && ch != base && !slices.Contains(gone, ch.Name) {
			return nil
		}
	}
	have, err := c.Sets(refTable())
	if err == nil && len(have) == 0 {
		b.DelTable(refTable())
	}
	return err
}

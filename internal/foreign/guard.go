//go:build linux

package foreign

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/netns"
)

// guards are the chains of an attachment; false if the kernel takes no chains of such names, so that there are none.
func (a Attachment) guards() (port, mac string, ok bool) {
	port = refGuard + a.ContainerID + "-" + a.IfName
	mac = port + refGuardMAC
	return port, mac, len(mac) < unix.NFT_NAME_MAXLEN
}

// HasGuard reports whether the reference's spoof check of an attachment is in place for that port of a bridge and address.
func HasGuard(_ context.Context, ns *netns.NS, a Attachment, port string, mac inet.MAC) (has bool, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("spoof check of port %s: %w", port, err)
		}
	}()
	portChain, macChain, ok := a.guards()
	if !ok {
		return false, nil
	}
	c, err := nft.Open(ns)
	if err != nil {
		return false, err
	}
	base, err := c.Rules(refBridge, refGuardBase)
	if err != nil {
		return false, err
	}
	middle, err := c.Rules(refBridge, portChain)
	if err != nil {
		return false, err
	}
	last, err := c.Rules(refBridge, macChain)
	if err != nil {
		return false, err
	}
	own := nft.Exprs{}.InName().Equal(append([]byte(port), make([]byte, unix.IFNAMSIZ-len(port))...))
	return slices.ContainsFunc(base, func(r nft.Rule) bool { return r.Exprs.Jumps() == portChain && r.Exprs.Has(own) }) &&
		slices.ContainsFunc(middle, func(r nft.Rule) bool { return r.Exprs.Jumps() == macChain }) &&
		len(last) > 1 && last[0].Exprs.Has(nft.Exprs{}.SourceMAC().Equal(mac[:])) && last[len(last)-1].Exprs.Refuses(), nil
}

// RemoveGuard removes the reference's spoof check of an attachment, and its table if that leaves it as the reference makes
// it at first. Where there is nothing, it asks the kernel in one write.
func RemoveGuard(ctx context.Context, ns *netns.NS, a Attachment) error {
	portChain, macChain, ok := a.guards()
	if !ok {
		return nil
	}
	if err := removeGuard(ctx, ns, portChain, macChain); err != nil && !nft.Missing(err) {
		return fmt.Errorf("remove the reference plugin's spoof check of container %s, interface %s: %w", a.ContainerID, a.IfName, err)
	}
	return nil
}

func removeGuard(ctx context.Context, ns *netns.NS, portChain, macChain string) error {
	c, err := nft.Open(ns)
	if err != nil {
		return err
	}
	ask := func() (present []string, err error) {
		answers, err := c.Query(nft.GetChain(refBridge, portChain), nft.GetChain(refBridge, macChain))
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
		base, err := c.Rules(refBridge, refGuardBase)
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
			b.DelChain(refBridge, name)
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
	base := nft.Chain{Table: refBridge, Name: refGuardBase, Hook: nft.Hook{Type: "filter", Num: nft.Prerouting, Priority: -300, Policy: nft.Accept}}
	for _, ch := range all {
		if ch.Table == refBridge && ch != base && !slices.Contains(gone, ch.Name) {
			return nil
		}
	}
	have, err := c.Sets(refBridge)
	if err == nil && len(have) == 0 {
		b.DelTable(refBridge)
	}
	return err
}

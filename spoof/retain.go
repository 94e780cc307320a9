//go:build linux

package spoof

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/base/order"
	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/netns"
)

// Revoke ends the guard of a port. It succeeds if there is none. The rule and the sets stay until [Retain].
func Revoke(ctx context.Context, ns *netns.NS, port string) error {
	p := Port{Name: port}
	if port == "" || len(port) >= unix.IFNAMSIZ {
		return nil
	}
	c, err := nft.Open(ns)
	if nft.Missing(err) {
		return nil
	}
	if err != nil {
		return p.fail(err)
	}
	answers, err := c.Query(nft.GetElements(table(), portSet, nft.Element{Key: portKey(port)}))
	if err != nil || errors.Is(answers[0].Err, fs.ErrNotExist) || nft.Missing(answers[0].Err) {
		return p.fail(err)
	}
	if old := answers[0].Elements(); len(old) == 1 {
		if was, ok := fromElement(old[0]); ok {
			var b nft.Batch
			b.DelElements(table(), portSet, []nft.Element{{Key: portKey(port)}})
			b.DelElements(table(), pairSet, []nft.Element{{Key: was.pairElement().Key}})
			if err := c.Commit(0, &b); !errors.Is(err, fs.ErrNotExist) {
				return p.fail(err)
			}
		}
	}
	return p.fail(sweep(ctx, c, func(name, _ string) bool { return name == port }, false))
}

// RevokeOf ends the guard of the ports of an owner, for who does not know their names. Where there is none it does nothing.
func RevokeOf(ctx context.Context, ns *netns.NS, owner string) error {
	return retain(ctx, ns, func(_, o string) bool { return o != "" && o == mark.Label(owner, maxOwner) })
}

// Retain ends the guard of every port whose owner begins with the prefix and is not among the live ones, and removes the
// table when no port is left in it.
func Retain(ctx context.Context, ns *netns.NS, prefix string, live []string) error {
	prefix = prefix[:min(len(prefix), mark.LabelKept(maxOwner))]
	keep := map[string]bool{}
	for _, owner := range live {
		keep[mark.Label(owner, maxOwner)] = true
	}
	return retain(ctx, ns, func(_, owner string) bool { return owner != "" && strings.HasPrefix(owner, prefix) && !keep[owner] })
}

func retain(ctx context.Context, ns *netns.NS, gone func(name, owner string) bool) error {
	c, err := nft.Open(ns)
	if err == nil {
		err = sweep(ctx, c, gone, true)
	}
	if err != nil && !nft.Missing(err) {
		return fmt.Errorf("spoof check: %w", err)
	}
	return nil
}

func sweep(ctx context.Context, c *nft.Conn, gone func(name, owner string) bool, dropTable bool) error {
	return c.Update(ctx, func(b *nft.Batch) error {
		ports, err := c.Elements(table(), portSet)
		if err != nil {
			return err
		}
		pairs, err := c.Elements(table(), pairSet)
		if err != nil {
			return err
		}
		left := drop(b, ports, pairs, gone)
		if !dropTable || left > 0 {
			return nil
		}
		return dropIfOurs(c, b)
	})
}

// dropIfOurs removes the table unless others put something into it.
func dropIfOurs(c *nft.Conn, b *nft.Batch) error {
	all, err := c.Chains(nft.Bridge)
	if err != nil {
		return err
	}
	there := false
	for _, ch := range all {
		if ch.Table == table() {
			if ch.Name != chainName {
				return nil
			}
			there = true
		}
	}
	have, err := c.Sets(table())
	if err != nil || slices.ContainsFunc(have, func(s nft.Set) bool { return s.Name != portSet && s.Name != pairSet }) {
		return err
	}
	if there {
		b.DelTable(table())
	}
	return nil
}

// List returns the guarded ports.
func List(_ context.Context, ns *netns.NS) ([]Port, error) {
	c, err := nft.Open(ns)
	if err != nil {
		return nil, fmt.Errorf("spoof check: %w", err)
	}
	elements, err := c.Elements(table(), portSet)
	if err != nil {
		return nil, fmt.Errorf("spoof check: %w", err)
	}
	var out []Port
	for _, e := range elements {
		if p, ok := fromElement(e); ok {
			out = append(out, p)
		}
	}
	order.By(out, func(a, b Port) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

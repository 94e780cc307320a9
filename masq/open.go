//go:build linux

package masq

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/internal/kernel/xtables"
	"github.com/cniblocks/cniblocks/netns"
)

// Open returns the backend of that name, "nftables" or "iptables". An empty name is nftables where the kernel has it,
// else iptables. The error says what is missing and what to do. A kernel whose nftables cannot masquerade shows that only
// when it should; see [Ensure] and [Probe].
func Open(ctx context.Context, ns *netns.NS, name string) (Backend, error) {
	return open(ns, name)
}

func open(ns *netns.NS, name string) (Backend, error) {
	ipt := IPTables{NS: ns}
	switch name {
	case "nftables":
		if err := (NFT{ns}).there(); err != nil {
			return nil, fmt.Errorf(`%w, or use "iptables"`, err)
		}
		return NFT{ns}, nil
	case "iptables":
		if err := ipt.there(); err != nil {
			return nil, fmt.Errorf(`%w, or use "nftables", which needs no program`, err)
		}
		return ipt, nil
	case "":
		missing := NFT{ns}.there()
		if missing == nil && ipt.inUse() && !(NFT{ns}).inUse() { // either it was configured before, or nftables cannot
			missing = NFT{ns}.try()
		}
		switch {
		case missing == nil:
			return NFT{ns}, nil
		case !lacks(missing): // a failure that passes must not move a network to another backend
			return nil, missing
		}
		if err := ipt.there(); err != nil {
			return nil, fmt.Errorf("no backend for SNAT: %w; %w", missing, err)
		}
		return ipt, nil
	}
	return nil, fmt.Errorf(`SNAT backend %q is not known: use "nftables" or "iptables"`, name)
}

// Ensure opens the backend of that name, as [Open] does, and makes the policy hold there. Where the name is empty and
// nftables turns out to be unable to masquerade, it is iptables. It returns the backend that took the policy.
func Ensure(ctx context.Context, ns *netns.NS, name string, p Policy) (Backend, error) {
	b, err := open(ns, name)
	if err != nil {
		return nil, err
	}
	err = b.Ensure(ctx, p)
	if name == "" && errors.Is(err, errors.ErrUnsupported) {
		other, missing := open(ns, "iptables")
		if missing != nil {
			return nil, fmt.Errorf("no backend for SNAT: %w; %w", err, missing)
		}
		b, err = other, other.Ensure(ctx, p)
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// Probe reports why [Ensure] could not masquerade by the backend of that name, and changes nothing. Where no network is
// masqueraded by nftables yet it tries a transaction that never takes place, which takes some ten milliseconds.
func Probe(ctx context.Context, ns *netns.NS, name string) error {
	b, err := Open(ctx, ns, name)
	if err != nil {
		return err
	}
	if n, ok := b.(NFT); ok && !n.inUse() {
		err = n.try()
		if err != nil && name == "" && (IPTables{}).there() == nil {
			err = nil
		}
	}
	return err
}

// lacks reports whether the error says that the kernel cannot, rather than that it could not this time.
func lacks(err error) bool {
	return nft.Missing(err) || errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrNotExist)
}

const nftModules = "load the modules nf_tables, nft_chain_nat and nft_masq"

// there reports whether the kernel has nftables.
func (b NFT) there() error {
	c, err := nft.Open(b.NS)
	if err == nil {
		var ok bool
		if ok, err = c.Supported(); err == nil && !ok {
			err = errors.ErrUnsupported
		}
	}
	if err != nil && lacks(err) {
		return fmt.Errorf("SNAT by nftables: the kernel has no nftables: %w: %s", err, nftModules)
	}
	return b.open(err)
}

func (b NFT) open(err error) error {
	if err != nil {
		return fmt.Errorf("SNAT by nftables: %w", err)
	}
	return nil
}

// inUse reports whether some network is masqueraded by nftables.
func (b NFT) inUse() bool {
	c, err := nft.Open(b.NS)
	if err == nil {
		_, err = c.Chain(ourTable(), postrouting)
	}
	return err == nil
}

// try reports why the kernel would not take a rule that masquerades.
func (b NFT) try() error {
	c, err := nft.Open(b.NS)
	if err == nil {
		err = c.Try(func(batch *nft.Batch) {
			chain := natChain()
			chain.Table.Name = mark.Word + "-probe"
			batch.AddTable(chain.Table)
			batch.AddChain(chain)
			batch.AppendRule(nft.Rule{Table: chain.Table, Chain: chain.Name, Exprs: nft.Exprs{}.Family(nft.IPv4).Masquerade()})
		})
	}
	return b.open(remedy(err))
}

// remedy says what to do about a kernel that lacks a part of nftables.
func remedy(err error) error {
	if errors.Is(err, errors.ErrUnsupported) {
		return fmt.Errorf("the kernel cannot masquerade by nftables: %w: %s", err, nftModules)
	}
	return err
}

// there reports whether the programs are installed.
func (IPTables) there() error {
	if _, err := xtables.Find(4); err != nil {
		return fmt.Errorf("SNAT by iptables: %w", err)
	}
	return nil
}

// inUse reports whether some network is masqueraded by iptables.
func (b IPTables) inUse() bool {
	there, err := b.mentions(mark.Postrouting)
	return err == nil && there
}

//go:build linux

package inventory

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/forward"
	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/foreign"
	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/internal/kernel/xtables"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/masq"
	"github.com/cniblocks/cniblocks/portmap"
	"github.com/cniblocks/cniblocks/spoof"
)

// readFirewall reads SNAT, passages through FORWARD and spoof guards.
func (r *reader) readFirewall(ctx context.Context) error {
	errs := []error{r.readSNAT(ctx)}
	c, err := nft.Open(r.NS)
	if err == nil {
		errs = append(errs, r.readNFT(c))
	} else if !nft.Missing(err) {
		errs = append(errs, err)
	}
	errs = append(errs, r.readLegacyForward(), r.readBlocked(ctx), r.readHostPorts(ctx))
	err = errors.Join(errs...)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return errors.New("permission denied: only root may read it")
	}
	return err
}

func (r *reader) readSNAT(ctx context.Context) error {
	var errs []error
	for _, b := range []masq.Backend{masq.NFT{NS: r.NS}, masq.IPTables{NS: r.NS}} {
		list, err := b.List(ctx)
		if err != nil && !nft.Missing(err) {
			errs = append(errs, err)
		}
		for _, p := range list {
			s := SNAT{Backend: b.Name(), Owner: Ours, Network: r.commented(p.Network), Sources: []Span{}, Except: p.Except}
			for _, src := range p.Sources {
				s.Sources = append(s.Sources, Span{src.Start, src.End})
			}
			for _, pod := range p.Pods {
				s.Pods = append(s.Pods, pod.Addr)
			}
			r.n.SNAT = append(r.n.SNAT, s)
		}
	}
	return errors.Join(errs...)
}

func (r *reader) readNFT(c *nft.Conn) error {
	var errs []error
	for _, f := range []uint8{nft.IPv4, nft.IPv6} {
		errs = append(errs, r.readForward(c, f), r.readReferenceChains(c, f))
	}
	errs = append(errs, r.readReferenceTable(c), r.readSets(c), r.readGuards(c), r.readHidden())
	return errors.Join(errs...)
}

// readForward finds the networks that FORWARD of iptables-nft lets pass, and says so where it drops.
func (r *reader) readForward(c *nft.Conn, family uint8) error {
	filter := nft.Table{Family: family, Name: "filter"}
	rules, err := c.Rules(filter, mark.Forward)
	if err != nil {
		return ignoreNoNFT(err)
	}
	var open []string
	for _, rule := range rules {
		if network, ok := mark.Network(rule.Compat().Comment); ok {
			network = r.commented(network)
			open = append(open, network)
			r.n.Forward = append(r.n.Forward, Forward{Network: network, Table: filter.Title()})
		}
	}
	chain, err := c.Chain(filter, "FORWARD")
	if err == nil && chain.Num == nft.Forward && chain.Policy == nft.Drop {
		r.wall(filter.Title(), open)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return ignoreNoNFT(err)
}

// wall notes a chain FORWARD that drops.
func (r *reader) wall(table string, open []string) {
	o := Obstacle{What: fmt.Sprintf("chain FORWARD of table %s drops what no rule accepts, as Docker has it", table)}
	slices.Sort(open)
	if open = slices.Compact(open); len(open) > 0 {
		o.Remedy = "rules of ours let the pods of " + strings.Join(open, ", ") + " pass"
	} else {
		o.Remedy = "a network with ipMasq gets rules of ours at its next ADD"
	}
	r.n.Obstacles = append(r.n.Obstacles, o)
}

func ignoreNoNFT(err error) error {
	if nft.Missing(err) {
		return nil
	}
	return err
}

// readLegacyForward does the same for the legacy tables, which are read from the kernel and not by their program: a
// network is looked for by its name.
func (r *reader) readLegacyForward() error {
	var errs []error
	for _, f := range []xtables.Family{4, 6} {
		table, err := xtables.ReadLegacy(r.NS, f, "filter")
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		title := map[xtables.Family]string{4: "ip filter (legacy)", 6: "ip6 filter (legacy)"}[f]
		var open []string
		if table.Mentions(mark.Forward) {
			for _, network := range r.n.Networks() {
				if table.Mentions(mark.Comment(network)) {
					open = append(open, network)
					r.n.Forward = append(r.n.Forward, Forward{Network: network, Table: title})
				}
			}
		}
		if table.ForwardDrops() {
			r.wall(title, open)
		}
	}
	return errors.Join(errs...)
}

// readBlocked asks for what is not ours to open.
func (r *reader) readBlocked(ctx context.Context) error {
	blocked, err := forward.Passage{NS: r.NS}.Blocked(ctx)
	for _, what := range blocked {
		r.n.Obstacles = append(r.n.Obstacles, Obstacle{What: what})
	}
	return ignoreNoNFT(err)
}

// readReferenceChains counts what the reference plugins keep for each pod in tables of iptables-nft.
func (r *reader) readReferenceChains(c *nft.Conn, family uint8) error {
	n, err := foreign.SNATChains(c, family)
	if n > 0 {
		r.n.SNAT = append(r.n.SNAT, SNAT{Backend: "iptables", Owner: Reference, Entries: n})
	}
	return ignoreNoNFT(err)
}

// readReferenceTable counts what they keep for each pod in nftables.
func (r *reader) readReferenceTable(c *nft.Conn) error {
	count, err := foreign.SNATRules(c)
	for network, n := range count {
		r.n.SNAT = append(r.n.SNAT, SNAT{Backend: "nftables", Owner: Reference, Network: network, Entries: n})
	}
	return ignoreNoNFT(err)
}

// readSets finds networks whose SNAT rule another program took away: their sets are still there.
func (r *reader) readSets(c *nft.Conn) error {
	sets, err := c.Sets(nft.Table{Family: nft.INet, Name: mark.Word})
	if err != nil {
		return ignoreNoNFT(err)
	}
	for _, s := range sets {
		purpose, network, ok := strings.Cut(s.Name, "-")
		known := slices.ContainsFunc(r.n.SNAT, func(s SNAT) bool {
			return s.Network == network && s.Owner == Ours && s.Backend == masq.NFT{}.Name()
		})
		if ok && !known && slices.Contains([]string{"src4", "src6", "pods4", "pods6", "except4", "except6"}, purpose) {
			r.n.SNAT = append(r.n.SNAT, SNAT{Backend: masq.NFT{}.Name(), Owner: Ours, Network: network, Sources: []Span{}, Broken: true})
		}
	}
	return nil
}

// readHidden finds gateways outside of their subnet.
func (r *reader) readHidden() error {
	list, err := bridge.ListHidden(context.Background(), r.NS)
	for _, h := range list {
		r.n.Hidden = append(r.n.Hidden, Hidden(h))
	}
	return err
}

// readHostPorts finds the ports that lead to pods.
func (r *reader) readHostPorts(ctx context.Context) error {
	var errs []error
	for backend, b := range map[string]portmap.Backend{"nftables": portmap.Table{NS: r.NS}, "iptables": portmap.IPTables{NS: r.NS}} {
		pods, err := b.List(ctx)
		errs = append(errs, err)
		for _, pod := range pods {
			rest, _ := strings.CutPrefix(pod.Owner, link.Root)
			part := append(strings.Split(rest, "/"), "", "")
			for _, m := range pod.Maps {
				r.n.HostPorts = append(r.n.HostPorts, HostPort{Backend: backend, ContainerID: part[1], IfName: part[2], Protocol: m.Proto.String(), Host: m.Host, Pod: m.Pod,
					Network: r.fullName(func(name string) bool { return link.Label(name) == part[0] }, part[0])})
			}
		}
	}
	return errors.Join(errs...)
}

// readGuards finds the entries of macspoofchk.
func (r *reader) readGuards(c *nft.Conn) error {
	ports, err := spoof.List(context.Background(), r.NS)
	if err != nil {
		return ignoreNoNFT(err)
	}
	for _, p := range ports {
		g := Guard{Owner: Ours, HostEnd: p.Name, Entry: "MAC " + net.HardwareAddr(p.MAC[:]).String()}
		// A long owner is cut off behind its network.
		rest, _ := strings.CutPrefix(p.Owner, link.Root)
		if label, _, ok := strings.Cut(rest, "/"); ok {
			g.Network = r.fullName(func(name string) bool { return link.Label(name) == label }, label)
		}
		r.n.Guards = append(r.n.Guards, g)
	}
	chains, err := c.Chains(nft.Bridge)
	if err != nil {
		return ignoreNoNFT(err)
	}
	for _, ch := range chains {
		r.n.GuardTable = r.n.GuardTable || ch.Table.Name == mark.Word
		if foreign.IsGuard(ch) {
			r.n.Guards = append(r.n.Guards, Guard{Owner: Reference, Entry: "chain " + ch.Name})
		}
	}
	return nil
}

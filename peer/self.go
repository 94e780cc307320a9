package peer

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/internal/base/nearest"
)

// Self finds the peer that this machine is. The first of these that is there decides:
//
//  1. the stated name, if it is not empty: it has to be that of a peer;
//  2. the peer one of whose endpoints is an address of this machine. What local yields is read only for this step;
//     it may be nil;
//  3. the peer whose name is the host name, in which upper and lower case do not count. An empty one is not tried.
//
// None, or two in one step, is an error that lists what was tried.
func Self(peers []Peer, stated string, local iter.Seq[netip.Addr], hostname string) (Peer, error) {
	if stated != "" {
		return byName(peers, stated)
	}
	var tried []string
	if local != nil {
		here := slices.Collect(local)
		if p, err := only(peers, func(p Peer) bool { return hasEndpoint(p, here) }); p != nil || err != nil {
			return found(p, err, "have an endpoint that is a local address")
		}
		tried = append(tried, fmt.Sprintf("no endpoint is one of the local addresses (%s)", list(here, netip.Addr.String)))
	}
	if hostname != "" {
		if p, err := only(peers, func(p Peer) bool { return strings.EqualFold(p.Name, hostname) }); p != nil || err != nil {
			return found(p, err, fmt.Sprintf("bear the host name %s", quote(hostname)))
		}
		tried = append(tried, fmt.Sprintf("none is named as this host, %s", quote(hostname)))
	}
	if len(tried) == 0 {
		tried = []string{"neither local addresses nor a host name are known"}
	}
	return Peer{}, fmt.Errorf("which peer is this machine? Of %s: key \"node\" is not stated; %s; state \"node\"",
		named(peers), strings.Join(tried, "; "))
}

// Others are the peers without self, told by its name, in their order.
func Others(peers []Peer, self string) []Peer {
	return slices.DeleteFunc(slices.Clone(peers), func(p Peer) bool { return p.Name == self })
}

func byName(peers []Peer, name string) (Peer, error) {
	p, err := only(peers, func(p Peer) bool { return p.Name == name })
	if p != nil || err != nil {
		return found(p, err, fmt.Sprintf("are named %s", quote(name)))
	}
	hint := "state the name of a peer, or leave the key out"
	near, ok := nearest.Of(name, func(yield func(string) bool) {
		for _, p := range peers {
			if !yield(p.Name) {
				return
			}
		}
	})
	if ok {
		hint = fmt.Sprintf("did you mean %s?", quote(near))
	}
	return Peer{}, fmt.Errorf("which peer is this machine? Key \"node\" says %s, which is not among %s; %s", quote(name), named(peers), hint)
}

func found(p *Peer, err error, what string) (Peer, error) {
	if err != nil {
		return Peer{}, fmt.Errorf("which peer is this machine? %w %s; state \"node\", or correct the peers", err, what)
	}
	return *p, nil
}

// only is the one peer that fits, or nil; several are an error that begins with their names.
func only(peers []Peer, fits func(Peer) bool) (*Peer, error) {
	var all []Peer
	for _, p := range peers {
		if fits(p) {
			all = append(all, p)
		}
	}
	switch len(all) {
	case 0:
		return nil, nil
	case 1:
		return &all[0], nil
	}
	return nil, fmt.Errorf("%d of them, %s,", len(all), list(all, func(p Peer) string { return quote(p.Name) }))
}

func hasEndpoint(p Peer, here []netip.Addr) bool {
	return p.V4.Addr.IsValid() && slices.Contains(here, p.V4.Addr) || p.V6.Addr.IsValid() && slices.Contains(here, p.V6.Addr)
}

func named(peers []Peer) string {
	if len(peers) == 0 {
		return "the peers, of which there are none"
	}
	return "the peers " + list(peers, func(p Peer) string { return quote(p.Name) })
}

// list names the first of many.
func list[T any](all []T, name func(T) string) string {
	const most = 8
	var b strings.Builder
	for i, v := range all {
		if i == most {
			fmt.Fprintf(&b, " and %d more", len(all)-most)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(name(v))
	}
	if b.Len() == 0 {
		return "none"
	}
	return b.String()
}

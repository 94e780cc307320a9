//go:build linux

// Package portmap makes ports of a node lead to pods: host ports.
//
// [Table] keeps them in nftables: all of a node are in one map for each family, and one more for those of single addresses, so
// that a connection costs the same whatever their number. [IPTables] keeps them in chains of iptables(8), a chain for each pod.
// What is a pod's bears the mark of its owner. The table and its names: docs/names.md.
//
// A host port is reached from other machines, from pods, the pod itself among them, and from the node by any of its addresses.
// The port [::1] is left alone: the kernel cannot send from there to another machine, so that nothing but a program of the node
// answers there.
//
// Out of scope: reserving the port against programs of the node, which are outrun by a host port; a FORWARD policy that drops.
package portmap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strconv"
	"strings"

	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/base/sentinel"
	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
)

// Proto is a protocol number of IP.
type Proto uint8

// The protocols that have ports.
const (
	TCP  Proto = 6
	UDP  Proto = 17
	SCTP Proto = 132
)

var protos = [...]Proto{TCP, UDP, SCTP}

// String is its name in lower case.
func (p Proto) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	}
	return "protocol " + strconv.Itoa(int(p))
}

// ParseProto reads a name, in any case.
func ParseProto(s string) (Proto, error) {
	for _, p := range protos {
		if strings.EqualFold(s, p.String()) {
			return p, nil
		}
	}
	return 0, fmt.Errorf(`protocol %q is not known: use "tcp", "udp" or "sctp"`, s)
}

// Map leads a port of the node to one of a pod; comparable.
type Map struct {
	Host  netip.AddrPort // an unspecified address, 0.0.0.0 or ::, is every address of the node in its family
	Pod   netip.AddrPort
	Proto Proto
}

func (m Map) any() bool { return m.Host.Addr().IsUnspecified() }

// String is such as "tcp 192.0.2.1:8080".
func (m Map) String() string { return m.Proto.String() + " " + m.Host.String() }

// overlaps reports whether a packet could be for both.
func (m Map) overlaps(o Map) bool {
	return m.Proto == o.Proto && m.Host.Port() == o.Host.Port() && m.Host.Addr().Is4() == o.Host.Addr().Is4() &&
		(m.any() || o.any() || m.Host.Addr() == o.Host.Addr())
}

// SNAT says whose packets get an address of the node as their source on the way to the pod.
type SNAT uint8

// The zero value is right wherever the pod does not have to see who calls it from close by.
const (
	SNATNeeded SNAT = iota // those that would not be answered otherwise: from the pod's subnet, itself included, and from 127.0.0.0/8
	SNATNone               // nobody's: those are not answered, and 127.0.0.0/8 is left alone
	SNATAll                // everybody's
)

// Pod is a pod with its host ports.
type Pod struct {
	Owner  string         // whose they are, for Remove and Retain: the alias of the attachment
	Device string         // a link that is there as long as the attachment, its host end; empty if none is known
	Addrs  []netip.Prefix // of the pod, at most one in a family, with the length of its subnet
	Maps   []Map
	SNAT   SNAT
}

// Backend is where host ports are kept.
type Backend interface {
	// Set makes the pod have exactly these host ports. A port that another pod has is an error that is [io/fs.ErrExist] and names
	// that one, unless its device is gone. After an error [Backend.Remove] takes away what was made.
	Set(context.Context, Pod) error
	// Check fails if something of the pod's host ports is missing or wrong.
	Check(context.Context, Pod) error
	// Remove takes all host ports of an owner away; none is no error. It is quicker when told which they are.
	Remove(ctx context.Context, owner string, maps ...Map) error
	// Retain takes away those of owners that begin with the prefix and are not among the live ones.
	Retain(ctx context.Context, prefix string, live []string) error
	// List lists all; a long owner as its beginning and a hash, and no subnets.
	List(context.Context) ([]Pod, error)
	// Ready fails if Set could not succeed now.
	Ready(context.Context) error
}

// Supported reports whether the kernel has nftables.
func Supported(ns *netns.NS) (bool, error) {
	c, err := nft.Open(ns)
	if nft.Missing(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return c.Supported()
}

const maxOwner = 160 // bytes of an owner in comments

func label(owner string) string { return mark.Label(owner, maxOwner) }

// dead finds the labels that Retain takes away.
func dead(prefix string, live []string) func(label string) bool {
	prefix = prefix[:min(len(prefix), mark.LabelKept(maxOwner))]
	keep := map[string]bool{}
	for _, owner := range live {
		keep[label(owner)] = true
	}
	return func(l string) bool { return strings.HasPrefix(l, prefix) && !keep[l] }
}

// who names an owner for people.
func who(label string) string {
	rest, ours := strings.CutPrefix(label, link.Root)
	if part := strings.Split(rest, "/"); ours && len(part) == 3 {
		return fmt.Sprintf("container %s (interface %s, network %s)", part[1], part[2], part[0])
	}
	return label
}

// Validate fails where a value cannot be right. Set and Check call it.
func (p Pod) Validate() error {
	if p.Owner == "" {
		return errors.New("host ports: the pod has no owner")
	}
	for i, a := range p.Addrs {
		if !a.IsValid() || a.Addr().Is4In6() || a.Addr().Zone() != "" || i > 0 && (i > 1 || a.Addr().Is4() == p.Addrs[0].Addr().Is4()) {
			return fmt.Errorf("host ports of %s: addresses %v: want one of a family, such as 10.1.0.2/24", p.Owner, p.Addrs)
		}
	}
	for i, m := range p.Maps {
		if err := p.check(m); err != nil {
			return fmt.Errorf("host ports of %s: %w", p.Owner, err)
		}
		for _, o := range p.Maps[:i] {
			if o != m && o.overlaps(m) {
				return fmt.Errorf("host ports of %s: %s leads to %s, and %s to %s: leave one out", p.Owner, o, o.Pod, m, m.Pod)
			}
		}
	}
	return nil
}

func (p Pod) check(m Map) error {
	host := m.Host.Addr()
	_, err := ParseProto(m.Proto.String())
	switch {
	case err != nil:
		return err
	case !m.Host.IsValid() || host.Is4In6() || host.Zone() != "" || host.IsMulticast():
		return fmt.Errorf("host address %q: want an address of the node, or an unspecified one", host)
	case m.Host.Port() == 0 || m.Pod.Port() == 0:
		return fmt.Errorf("%s to port %d of the pod: want ports from 1 to 65535", m, m.Pod.Port())
	case !p.has(m.Pod.Addr()):
		return fmt.Errorf("%s leads to %s, which is no address of the pod", m, m.Pod.Addr())
	case host.Is4() != m.Pod.Addr().Is4():
		return fmt.Errorf("%s leads to %s, of the other family", m, m.Pod.Addr())
	case host.Is6() && host.IsLoopback():
		return fmt.Errorf("%s: the kernel sends nothing from ::1 to a pod: use an address of a link, or 127.0.0.1", m)
	case host.IsLoopback() && p.SNAT == SNATNone:
		return fmt.Errorf("%s: without source NAT nothing from %s is answered", m, host)
	}
	return nil
}

func (p Pod) has(a netip.Addr) bool {
	for _, own := range p.Addrs {
		if own.Addr() == a {
			return true
		}
	}
	return false
}

// addr is the pod's address of a family, with its subnet.
func (p Pod) addr(v4 bool) netip.Prefix {
	for _, a := range p.Addrs {
		if a.Addr().Is4() == v4 {
			return a
		}
	}
	return netip.Prefix{}
}

// loops reports whether packets from 127.0.0.0/8 come to the pod.
func (p Pod) loops() bool {
	for _, m := range p.Maps {
		if a := m.Host.Addr(); p.SNAT != SNATNone && a.Is4() && (a.IsUnspecified() || a.IsLoopback()) {
			return true
		}
	}
	return false
}

// of are the maps of a family, each once.
func (p Pod) of(v4 bool) (maps []Map) {
	seen := map[Map]bool{}
	for _, m := range p.Maps {
		if m.Host.Addr().Is4() == v4 && !seen[m] {
			seen[m] = true
			maps = append(maps, m)
		}
	}
	return maps
}

// taken is the error for a port that another pod has.
func taken(m Map, holder string) error {
	return sentinel.Errorf(fs.ErrExist, "%s is a host port of %s: choose another, or remove that one", m, who(holder))
}

// alive reports whether the attachment that a device was noted for may still be there. One without a device counts as alive.
func alive(ctx context.Context, ns *netns.NS, device, label string) (bool, error) {
	if device == "" {
		return true, nil
	}
	l, err := link.Get(ctx, ns, device)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return !strings.HasPrefix(l.Alias, link.Root) || mark.Label(l.Alias, maxOwner) == label, nil
}

// settle decides about a holder of something that the pod needs: an error if it is alive, else it goes.
func settle(ctx context.Context, ns *netns.NS, device, holder string, refuse error, gone map[string]bool) error {
	lives, err := alive(ctx, ns, device, holder)
	if err == nil && lives {
		err = refuse
	}
	gone[holder] = err == nil
	return err
}

// dash stands for what is empty in comments.
func dash(s string) string { return cmp.Or(s, "-") }

func undash(s string) string {
	if s == "-" {
		return ""
	}
	return s
}

func fail(owner string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("host ports of %s: %w", owner, err)
}

//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/inventory"
)

// drawNetwork draws what a network has besides its devices.
func drawNetwork(root *item, n view, name string) {
	at := root.addf("network %s", name)
	drawSNAT(at, n, name)
	for _, f := range n.Forward {
		if f.Network == name {
			at.addf("forwarding [ours]: rules in table %s let its pods pass", f.Table)
		}
	}
	drawGuards(at, n, name)
	for _, r := range n.Rates {
		if r.Network == name && r.Device == "" {
			at.addf("%s %s: limits the rate of a pod that is gone", r.Helper, tag(r.Owner, ""))
		}
	}
	drawHostPorts(at, n, name)
	for _, d := range n.LeaseDirs {
		if d.Network == name {
			drawLeases(at, n, d)
		}
	}
	for _, d := range n.Records {
		if d.Network == name {
			at.addf("records of the flannel plugin [ours]: %d in %s", d.Records, d.Path)
		}
	}
	for _, d := range n.State {
		if d.Network == name {
			line := "state until the next boot [ours]: " + d.Path
			if d.Here {
				line += fmt.Sprintf("; this node is peer %q of %s", d.Node, words(d.Prefixes))
			}
			at.add(line)
		}
	}
	if len(at.kids) == 0 {
		at.add("no SNAT, no leases")
	}
}

func drawHostPorts(at *item, n view, name string) {
	drawn, left := 0, 0
	for _, p := range n.HostPorts {
		switch {
		case p.Network != name:
		case drawn == n.most:
			left++
		default:
			drawn++
			at.addf("host port by %s [ours]: %s %s leads to %s of container %s", p.Backend, p.Protocol, p.Host, p.Pod, p.ContainerID)
		}
	}
	rest(at, left)
}

func drawSNAT(at *item, n view, name string) {
	any := false
	for _, s := range n.SNAT {
		if s.Network != name {
			continue
		}
		any = true
		head := fmt.Sprintf("SNAT by %s %s: ", s.Backend, tag(s.Owner, ""))
		switch {
		case s.Owner == inventory.Reference:
			at.addf("%s%d rules, for each pod some", head, s.Entries)
		case s.Broken:
			at.add(head + "BROKEN, another program took the rule away; the next ADD puts it back")
		default:
			for _, sentence := range sentences(s) {
				at.add(head + sentence)
			}
		}
	}
	pods := slices.ContainsFunc(n.Attachments, func(a inventory.Attachment) bool { return a.Network == name })
	if !any && pods {
		at.add("no SNAT: pods reach only what has a route back to them")
	}
}

// sentences say a policy in words, one for each family.
func sentences(s inventory.SNAT) (out []string) {
	for _, is4 := range []bool{true, false} {
		var pods, except []string
		for _, src := range s.Sources {
			if src.First.Is4() == is4 {
				pods = append(pods, addresses(src, s.Except))
			}
		}
		single := 0
		for _, a := range s.Pods {
			if a.Is4() == is4 {
				single++
			}
		}
		switch {
		case single == 1:
			pods = append(pods, "1 single address")
		case single > 1:
			pods = append(pods, fmt.Sprintf("%d single addresses", single))
		}
		for _, p := range s.Except {
			if p.Addr().Is4() == is4 {
				except = append(except, p.String())
			}
		}
		if len(pods) == 0 {
			continue
		}
		sentence := "pods " + strings.Join(slices.Compact(pods), ", ") + " leave as the address of the uplink"
		if len(except) > 0 {
			sentence += ", except to " + strings.Join(except, ", ")
		}
		out = append(out, sentence)
	}
	return out
}

// addresses writes a range as the subnet that it is nearly all of, else by its ends.
func addresses(s inventory.Span, subnets []netip.Prefix) string {
	for _, p := range subnets {
		if p.Contains(s.First) && p.Contains(s.Last) && near(p.Masked().Addr(), s.First) && near(s.Last, last(p)) {
			return p.String()
		}
	}
	if s.First == s.Last {
		return s.First.String()
	}
	return s.First.String() + " to " + s.Last.String()
}

// near reports whether b is at most three after a.
func near(a, b netip.Addr) bool {
	for range 4 {
		if a == b {
			return true
		}
		a = a.Next()
	}
	return false
}

func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < p.Addr().BitLen(); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func drawGuards(at *item, n view, name string) {
	count := 0
	for _, g := range n.Guards {
		if g.Network == name {
			count++
		}
	}
	if count > 0 {
		at.addf("spoof guard [ours]: %d of its interfaces may send with their own MAC only", count)
	}
}

func drawLeases(at *item, n view, d inventory.LeaseDir) {
	path := filepath.Join(d.DataDir, d.Network)
	if !d.Exists {
		at.addf("leases %s: none, only our index of them is left in %s", tag(d.Owner, ""), filepath.Join(d.DataDir, ".cniblocks"))
		return
	}
	var idle []inventory.Lease
	for _, l := range n.Leases {
		if l.Network == d.Network && l.Dir == d.DataDir && !l.InUse {
			idle = append(idle, l)
		}
	}
	head := fmt.Sprintf("leases %s: %d in %s", tag(d.Owner, ""), d.Leases, path)
	switch {
	case d.Leases == 0:
	case len(idle) == 0:
		head += ", all of interfaces here"
	default:
		head += fmt.Sprintf(", %d of them without an interface here", len(idle))
	}
	under := at.add(head)
	for i, l := range idle {
		if i == n.most {
			rest(under, len(idle)-i)
			break
		}
		under.add(l.Addr.String(), strings.TrimSpace(short(l.ContainerID)+" "+l.IfName))
	}
}

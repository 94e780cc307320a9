//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/internal/inventory"
	"github.com/cniblocks/cniblocks/netns"
)

// most is how many lines of one kind are drawn before the rest is only counted.
const most = 30

// picture puts an inventory into a tree. path is what the namespace was asked for by; network is the only one that is
// shown, or empty.
func picture(n *inventory.Node, path, network string) *item {
	where := "this network namespace"
	if path != "" {
		where = n.Namespace
	}
	root := &item{cells: []string{fmt.Sprintf("node: %s, %s", where, forwarding(n))}}
	drawUplinks(root, n)
	for _, b := range n.Bridges {
		drawBridge(root, n, b)
	}
	drawLoose(root, n)
	for _, d := range n.Devices {
		if d.Bridge == "" {
			drawDevice(root, d)
		}
	}
	drawRoutes(root, n)
	for _, name := range n.Networks() {
		if network == "" || name == network {
			drawNetwork(root, n, name)
		}
	}
	drawRest(root, n)
	return root
}

func forwarding(n *inventory.Node) string {
	switch {
	case n.ForwardIPv4 && n.ForwardIPv6:
		return "forwards IPv4 and IPv6"
	case n.ForwardIPv4:
		return "forwards IPv4, not IPv6"
	case n.ForwardIPv6:
		return "forwards IPv6, not IPv4"
	}
	return "forwards no packets"
}

func drawUplinks(root *item, n *inventory.Node) {
	if len(n.Uplinks) == 0 {
		root.add("no uplink: there is no default route")
	}
	for _, u := range n.Uplinks {
		via := "a default route"
		if len(u.Via) > 0 {
			via = "default route via " + words(u.Via)
		}
		root.addf("uplink %s: %s", u.Name, strings.Join(some(words(u.Addrs), via), "; "))
	}
}

// some are the texts that are not empty.
func some(texts ...string) []string {
	return slices.DeleteFunc(texts, func(s string) bool { return s == "" })
}

func words[T fmt.Stringer](list []T) string {
	var out []string
	for _, v := range list {
		out = append(out, v.String())
	}
	return strings.Join(out, ", ")
}

func tag(o inventory.Owner, guess string) string {
	if guess != "" && o != inventory.Ours {
		return fmt.Sprintf("[%s, by its name %s's]", o, guess)
	}
	return "[" + string(o) + "]"
}

func upDown(up bool) string {
	if up {
		return "up"
	}
	return "DOWN"
}

func drawBridge(root *item, n *inventory.Node, b inventory.Bridge) {
	what := upDown(b.Up) + fmt.Sprintf(", MTU %d", b.MTU)
	if b.VLANFiltering {
		what += ", VLAN filtering"
	}
	if b.Network != "" {
		what = "made for network " + b.Network + "; " + what
	}
	at := root.addf("bridge %s %s: %s", b.Name, tag(b.Owner, b.Guess), what)
	drawAddrs(at, b.Addrs)
	for _, d := range n.Devices {
		if d.Bridge == b.Name {
			drawDevice(at, d)
		}
	}
	drawAttachments(at, n, b.Name)
	for _, p := range n.Ports {
		if p.Bridge == b.Name {
			at.add(p.Name, tag(p.Owner, ""), kind(p.Kind)+", a port of the bridge")
		}
	}
	if len(at.kids) == 0 {
		at.add("no ports")
	}
}

func kind(k string) string {
	if k == "" {
		return "a network card"
	}
	return k
}

func drawAddrs(at *item, addrs []inventory.Addr) {
	var own, other []string
	for _, a := range addrs {
		if a.Owner == inventory.Ours {
			own = append(own, a.Prefix.String())
		} else {
			other = append(other, a.Prefix.String())
		}
	}
	if len(own) > 0 {
		at.addf("gateway %s [ours]", strings.Join(own, ", "))
	}
	if len(other) > 0 {
		at.addf("address %s [foreign]", strings.Join(other, ", "))
	}
}

// drawLoose draws pairs that are not on a bridge and no uplink.
func drawLoose(root *item, n *inventory.Node) {
	at := &item{cells: []string{"pairs into other namespaces, on no bridge"}}
	drawAttachments(at, n, "")
	if len(at.kids) > 0 {
		root.kids = append(root.kids, at)
	}
}

func drawAttachments(at *item, n *inventory.Node, bridge string) {
	rest := 0
	for _, a := range n.Attachments {
		uplink := slices.ContainsFunc(n.Uplinks, func(u inventory.Uplink) bool { return u.Name == a.HostEnd })
		if a.Bridge != bridge || uplink {
			continue
		}
		if len(at.kids) >= most {
			rest++
			continue
		}
		at.add(a.HostEnd, tag(a.Owner, ""), attached(a), status(n, a))
	}
	if rest > 0 {
		at.addf("... and %d more, see -o json", rest)
	}
}

// attached says to what an interface belongs.
func attached(a inventory.Attachment) string {
	if a.ContainerID == "" {
		if a.Pod != nil {
			return a.Pod.Name
		}
		return "?"
	}
	s := short(a.ContainerID) + " " + a.IfName
	return s
}

// short is a container ID as people know it.
func short(id string) string {
	if len(id) > 20 {
		return id[:12]
	}
	return id
}

// status is what is to be said of an interface: its addresses, then only what is not as ever.
func status(n *inventory.Node, a inventory.Attachment) string {
	if a.Pod == nil {
		s := "its namespace was not found"
		if len(a.Leased) > 0 {
			s += "; leased " + words(a.Leased)
		}
		return s
	}
	parts := []string{"no address"}
	if len(a.Pod.Addrs) > 0 {
		parts[0] = words(a.Pod.Addrs)
	}
	parts = append(parts, leased(n, a))
	if len(a.Addrs) > 0 {
		var own []netip.Prefix
		for _, x := range a.Addrs {
			own = append(own, x.Prefix)
		}
		parts = append(parts, "here "+words(own))
	}
	if !a.Up || !a.Pod.Up {
		parts = append(parts, "DOWN")
	}
	place := "netns " + strings.TrimPrefix(a.Pod.Namespace, netns.Dir+"/")
	if strings.HasPrefix(place, "netns /proc") {
		place = "in process " + strings.TrimSuffix(strings.TrimPrefix(a.Pod.Namespace, "/proc/"), "/ns/net")
	}
	if a.Pod.Process != "" {
		place += " (" + a.Pod.Process + ")"
	}
	parts = append(parts, strings.ReplaceAll(place, " ", glue))
	return strings.Join(some(parts...), "; ")
}

// leased says which of the addresses are leased by the container.
func leased(n *inventory.Node, a inventory.Attachment) string {
	if a.Owner == inventory.Foreign {
		return ""
	}
	var without []netip.Addr
	for _, p := range a.Pod.Addrs {
		if !slices.Contains(a.Leased, p.Addr()) {
			without = append(without, p.Addr())
		}
	}
	switch {
	case len(a.Pod.Addrs) == 0 && len(a.Leased) > 0:
		return "leased " + words(a.Leased)
	case len(a.Pod.Addrs) == 0:
		return ""
	case len(without) == 0:
		return "leased"
	case slices.ContainsFunc(n.LeaseDirs, func(d inventory.LeaseDir) bool { return d.Network == a.Network && d.Exists }):
		return "NO LEASE for " + words(without)
	}
	return "leases not kept here"
}

func drawDevice(at *item, d inventory.Device) {
	what := d.Kind
	if d.VLAN != 0 {
		what = fmt.Sprintf("the node in VLAN %d", d.VLAN)
	}
	if len(d.Networks) > 0 {
		what += " of network " + strings.Join(d.Networks, ", ")
	}
	var addrs []netip.Prefix
	for _, a := range d.Addrs {
		addrs = append(addrs, a.Prefix)
	}
	state := fmt.Sprintf("%s, MTU %d", upDown(d.Up), d.MTU)
	at.addf("device %s %s: %s", d.Name, tag(d.Owner, d.Guess), strings.Join(some(what, d.Detail, state, words(addrs)), "; "))
}

func drawRoutes(root *item, n *inventory.Node) {
	if len(n.Routes) == 0 {
		return
	}
	at := root.add("routes [ours]")
	for i, r := range n.Routes {
		if i == most {
			at.addf("... and %d more, see -o json", len(n.Routes)-most)
			break
		}
		s := r.Dst.String()
		if r.Via.IsValid() {
			s += " via " + r.Via.String()
		}
		if r.Encap != "" {
			s += " in a tunnel, " + r.Encap
		}
		if r.Device != "" {
			s += " dev " + r.Device
		}
		if r.Src.IsValid() {
			s += " src " + r.Src.String()
		}
		at.add(s)
	}
}

// drawRest draws what is of no network, and what could not be read.
func drawRest(root *item, n *inventory.Node) {
	for _, s := range n.SNAT {
		if s.Network == "" && s.Owner == inventory.Reference {
			root.addf("SNAT by %s [reference]: %d chains, one for each pod", s.Backend, s.Entries)
		}
	}
	if len(n.Obstacles) > 0 {
		at := root.add("in the way of pods' packets, maybe [foreign]")
		for _, o := range n.Obstacles {
			at.add(strings.Join(some(o.What, o.Remedy), "; "))
		}
	}
	if len(n.Unread) > 0 {
		at := root.add("not read")
		for _, what := range n.Unread {
			at.add(what)
		}
	}
	nothing := len(n.Bridges)+len(n.Attachments)+len(n.Devices)+len(n.Networks())+len(n.Routes) == 0
	if nothing {
		root.add("no bridge, no pod, no tunnel")
	}
}

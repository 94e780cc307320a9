//go:build linux

package main

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/inventory"
	"github.com/cniblocks/cniblocks/netns"
)

// usual is how many lines of one kind are drawn unless all are wanted.
const usual = 30

// view is what is drawn, and how many lines of one kind before the rest is only counted.
type view struct {
	*inventory.Node
	most int
}

// rest counts what was not drawn.
func rest(at *item, n int) {
	if n > 0 {
		at.addf("... and %d more, see --all", n)
	}
}

// picture puts an inventory into a tree. path is what the namespace was asked for by; network is the only one that is
// shown, or empty; all says to count nothing that could be drawn.
func picture(node *inventory.Node, path, network string, all bool) *item {
	n := view{node, usual}
	if all {
		n.most = math.MaxInt
	}
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
			drawDevice(root, n, d)
		}
	}
	drawPlain(root, n)
	drawRoutes(root, n)
	for _, name := range n.Networks() {
		if network == "" || name == network {
			drawNetwork(root, n, name)
		}
	}
	drawRest(root, n)
	return root
}

func forwarding(n view) string {
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

func drawUplinks(root *item, n view) {
	if len(n.Uplinks) == 0 {
		root.add("no uplink: no default route, and no address beside those of pods' devices")
	}
	for _, u := range n.Uplinks {
		via := "a default route"
		switch {
		case !u.Default:
			via = "no default route"
		case len(u.Via) > 0:
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

func drawBridge(root *item, n view, b inventory.Bridge) {
	what := upDown(b.Up) + fmt.Sprintf(", MTU %d", b.MTU)
	if b.VLANFiltering {
		what += ", VLAN filtering"
	}
	if b.Network != "" {
		what = "made for network " + b.Network + "; " + what
	}
	at := root.addf("bridge %s %s: %s", b.Name, tag(b.Owner, b.Guess), what)
	drawAddrs(at, b.Addrs)
	for _, h := range n.Hidden {
		if h.Device == b.Name {
			at.addf("rules of nftables [ours]: requests by ARP for %s are answered on this bridge alone", h.Addr)
		}
	}
	for _, d := range n.Devices {
		if d.Bridge == b.Name {
			drawDevice(at, n, d)
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
func drawLoose(root *item, n view) {
	at := &item{cells: []string{"pairs into other namespaces, on no bridge"}}
	drawAttachments(at, n, "")
	if len(at.kids) > 0 {
		root.kids = append(root.kids, at)
	}
}

func drawAttachments(at *item, n view, bridge string) {
	drawn, more := 0, 0
	for _, a := range n.Attachments {
		uplink := slices.ContainsFunc(n.Uplinks, func(u inventory.Uplink) bool { return u.Name == a.HostEnd })
		if a.Bridge != bridge || uplink {
			continue
		}
		if drawn++; drawn > n.most {
			more++
			continue
		}
		at.add(a.HostEnd, tag(a.Owner, ""), attached(a), status(n, a))
	}
	rest(at, more)
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
func status(n view, a inventory.Attachment) string {
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
	for _, r := range n.Rates {
		if r.Device == a.HostEnd {
			parts = append(parts, "receives "+r.Out.String()+", sends "+r.In.String())
		}
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
func leased(n view, a inventory.Attachment) string {
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

func drawDevice(at *item, n view, d inventory.Device) {
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
	dev := at.addf("device %s %s: %s", d.Name, tag(d.Owner, d.Guess), strings.Join(some(what, d.Detail, from(d), state, words(addrs)), "; "))
	drawPeers(dev, n, func(p inventory.Peer) bool { return p.Device == d.Name }, len(d.Networks) > 1)
}

// from says by which address and device a tunnel sends.
func from(d inventory.Device) string {
	s := ""
	if len(d.Local) > 0 {
		s = "from " + words(d.Local)
	}
	if len(d.Over) > 0 {
		s += " over " + strings.Join(d.Over, ", ")
	}
	return strings.TrimSpace(s)
}

// drawPlain draws the peers to whom plain routes lead.
func drawPlain(root *item, n view) {
	at := &item{cells: []string{"peers by plain routes [ours]"}}
	drawPeers(at, n, func(p inventory.Peer) bool {
		return !slices.ContainsFunc(n.Devices, func(d inventory.Device) bool { return d.Name == p.Device })
	}, true)
	if len(at.kids) > 0 {
		root.kids = append(root.kids, at)
	}
}

// drawPeers draws some of the peers, with their networks or without.
func drawPeers(at *item, n view, want func(inventory.Peer) bool, network bool) {
	drawn, more := 0, 0
	for _, p := range n.Peers {
		if !want(p) {
			continue
		}
		if drawn++; drawn > n.most {
			more++
			continue
		}
		where := "peer without an endpoint yet"
		if p.Endpoint.IsValid() {
			where = "peer " + p.Endpoint.String()
		}
		pods := "one subnet spans the nodes"
		if len(p.Pods) > 0 {
			pods = "pods " + words(p.Pods)
		}
		if network && p.Network != "" {
			pods = "network " + p.Network + "; " + pods
		}
		at.add(where, pods)
	}
	rest(at, more)
}

func drawRoutes(root *item, n view) {
	if len(n.Routes) == 0 {
		return
	}
	at := root.add("routes [ours]")
	for i, r := range n.Routes {
		if i == n.most {
			rest(at, len(n.Routes)-i)
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
func drawRest(root *item, n view) {
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
	if n.Empty() && len(n.Networks()) == 0 {
		root.add("no bridge, no pod, no tunnel")
	}
}

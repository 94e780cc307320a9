//go:build linux

package inventory

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/internal/foreign"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/masq"
)

const (
	addrProto = link.Proto
	mainTable = unix.RT_TABLE_MAIN
	unicast   = unix.RTN_UNICAST
)

// aliased is what a link alias of ours says.
type aliased struct {
	networks                 []string
	network, container, name string // of an attachment
}

// parseAlias reads cniblocks/<network>, which devices of a network bear (those of several have a plus sign between the
// names), and cniblocks/<network>/<containerID>/<ifname>, which host ends bear.
func parseAlias(alias string) (m aliased, ok bool) {
	rest, ok := strings.CutPrefix(alias, link.Root)
	if !ok || rest == "" {
		return m, false
	}
	switch parts := strings.Split(rest, "/"); len(parts) {
	case 1:
		m.networks = strings.Split(parts[0], "+")
	case 3:
		m = aliased{[]string{parts[0]}, parts[0], parts[1], parts[2]}
	default:
		return m, false
	}
	return m, !slices.Contains(m.networks, "")
}

// mark is parseAlias with the full names in place of hashes, where something on disk has them.
func (r *reader) mark(alias string) (m aliased, ok bool) {
	if m, ok = parseAlias(alias); !ok {
		return m, false
	}
	for i, label := range m.networks {
		m.networks[i] = r.fullName(func(name string) bool { return link.Label(name) == label }, label)
	}
	if m.attachment() {
		m.network = m.networks[0]
		for _, l := range r.n.Leases {
			if l.Network == m.network && link.ContainerLabel(l.ContainerID) == m.container {
				m.container = l.ContainerID
				break
			}
		}
	}
	return m, true
}

// fullName is the known network that a label stands for, the label itself if there is none.
func (r *reader) fullName(means func(name string) bool, label string) string {
	known := func(name string) bool { return name != "" && means(name) }
	if known(r.Network) {
		return r.Network
	}
	for _, d := range r.n.LeaseDirs {
		if known(d.Network) {
			return d.Network
		}
	}
	for _, d := range r.n.State {
		if known(d.Network) {
			return d.Network
		}
	}
	for _, d := range r.n.Records {
		if known(d.Network) {
			return d.Network
		}
	}
	return label
}

// commented is the network that a comment of package masq names.
func (r *reader) commented(label string) string {
	return r.fullName(masq.Policy{Network: label}.Of, label)
}

func (m aliased) attachment() bool { return m.container != "" }

func (r *reader) readBridges() {
	for _, l := range r.links {
		if l.Kind != "bridge" {
			continue
		}
		b := Bridge{Name: l.Name, Index: l.Index, Owner: Foreign, Up: l.Up(), MTU: l.MTU,
			VLANFiltering: l.Bridge().VLANFiltering, Addrs: r.addrsOf(l.Index)}
		if l.Group == bridge.Group {
			b.Owner = Ours
			if m, ok := r.mark(l.Alias); ok && !m.attachment() {
				b.Network = m.networks[0]
			}
		} else {
			b.Guess = foreign.Maker(l.Name)
		}
		r.n.Bridges = append(r.n.Bridges, b)
	}
}

// readDevices finds tunnels, whosever they are, and our feet in VLANs.
func (r *reader) readDevices() {
	for _, l := range r.links {
		d := Device{Name: l.Name, Index: l.Index, Kind: l.Kind, Owner: Foreign, Up: l.Up(), MTU: l.MTU,
			Bridge: r.link(l.Master).Name, Addrs: r.addrsOf(l.Index)}
		m, marked := r.mark(l.Alias)
		switch {
		case marked && !m.attachment() && l.Kind == "veth":
			// The port behind the device bears the alias; the node's foot is its other end, in the same namespace.
			far := r.link(l.Peer)
			vlan, ok := strings.CutPrefix(far.Name, d.Bridge+".")
			id, err := strconv.Atoi(vlan)
			if !ok || err != nil || far.Peer != l.Index {
				continue
			}
			d = Device{Name: far.Name, Index: far.Index, Kind: far.Kind, Owner: Ours, Networks: m.networks, Bridge: d.Bridge,
				VLAN: id, Far: l.Index, Up: far.Up(), MTU: far.MTU, Addrs: r.addrsOf(far.Index)}
		case marked && !m.attachment() && l.Kind != "bridge":
			d.Owner, d.Networks, d.Detail = Ours, m.networks, detail(l)
		case l.Tunnel() == nil || isFallback(l.Name):
			continue
		default:
			d.Detail, d.Guess = detail(l), foreign.Maker(l.Name)
		}
		r.n.Devices = append(r.n.Devices, d)
	}
}

// isFallback names the devices that the kernel makes by itself with a tunnel's module.
func isFallback(name string) bool {
	return slices.Contains([]string{"tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip6tnl0", "ip6gre0", "ip_vti0", "ip6_vti0"}, name)
}

func detail(l rtnl.Link) string {
	switch t := l.Tunnel().(type) {
	case rtnl.VXLAN:
		if t.External {
			return "VNI from routes, " + udpPort(int(t.Port))
		}
		return fmt.Sprintf("VNI %d, %s", t.VNI, udpPort(int(t.Port)))
	case rtnl.Geneve:
		if t.External {
			return "VNI from routes, " + udpPort(int(t.Port))
		}
		return fmt.Sprintf("VNI %d, %s", t.VNI, udpPort(int(t.Port)))
	case rtnl.GRE:
		if t.External {
			return "key from routes"
		}
		return fmt.Sprintf("key %d, to %s", t.Key, t.Remote)
	case rtnl.IPTunnel:
		if t.Remote.IsValid() && !t.Remote.IsUnspecified() {
			return "to " + t.Remote.String()
		}
	}
	return ""
}

func udpPort(port int) string { return fmt.Sprintf("UDP port %d", port) }

// readPorts finds the ports of bridges that are neither attachments nor devices.
func (r *reader) readPorts() {
	for _, l := range r.links {
		master := r.link(l.Master)
		known := slices.ContainsFunc(r.n.Attachments, func(a Attachment) bool { return a.Index == l.Index }) ||
			slices.ContainsFunc(r.n.Devices, func(d Device) bool { return d.Index == l.Index || d.Far == l.Index })
		if master.Kind != "bridge" || known {
			continue
		}
		who := Foreign
		if _, ok := parseAlias(l.Alias); ok {
			who = Ours
		}
		r.n.Ports = append(r.n.Ports, Port{Name: l.Name, Index: l.Index, Kind: l.Kind, Bridge: master.Name, Owner: who})
	}
}

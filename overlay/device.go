//go:build linux

package overlay

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/link"
)

// device is a link as wanted.
type device struct {
	name   string
	tunnel rtnl.Tunnel
	mac    inet.MAC    // zero: whatever it has
	over   inet.Family // its underlay
	inner  inet.Family // the only pods that it carries; 0: both
	shared bool        // with other networks of this node
	bare   bool        // carries none of the node's addresses
	bridge string      // to be a port of
	port   []rtnl.PortFlag
}

// hashed is a device name that belongs to a network, and to a peer where there is one device for each.
func hashed(encap string, digits int, parts ...string) string {
	h := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return "cb-" + encap + "-" + hex.EncodeToString(h[:])[:digits]
}

// named is the stated name, else the hashed one.
func (o *Options) named(encap string) string {
	if o.Device != "" {
		return o.Device
	}
	return hashed(encap, min(6, 15-len("cb--")-len(encap)), o.Network)
}

func (o *Options) alias() string { return link.NetworkAlias(o.Network) }

// isMine reports whether a name in an alias is that of this network.
func (o *Options) isMine(who string) bool { return who == link.Label(o.Network) }

func (o *Options) isOurs(l rtnl.Link) bool { return slices.ContainsFunc(marked(l), o.isMine) }

// marked are the networks whose mark a link bears, see [link.Label].
func marked(l rtnl.Link) []string {
	names, ok := strings.CutPrefix(l.Alias, link.Root)
	if !ok || strings.Contains(names, "/") { // those of pods have more parts
		return nil
	}
	return strings.Split(names, "+")
}

// otherParameters says in which parameters a device differs from what is wanted.
func otherParameters(have, want rtnl.Tunnel) string {
	h, w := reflect.ValueOf(have), reflect.ValueOf(want)
	if have == nil || h.Type() != w.Type() {
		return "it is of another kind than " + want.Kind()
	}
	var differ []string
	for i := range h.NumField() {
		if a, b := parameter(h.Field(i)), parameter(w.Field(i)); a != b {
			differ = append(differ, fmt.Sprintf("%s is %s in place of %s", h.Type().Field(i).Name, a, b))
		}
	}
	if len(differ) == 0 {
		return "it is of another kind than " + want.Kind()
	}
	return strings.Join(differ, ", ")
}

func parameter(v reflect.Value) string {
	if a, ok := v.Interface().(netip.Addr); ok && !a.IsValid() {
		return "none"
	}
	return fmt.Sprint(v.Interface())
}

// ensureDevices makes the wanted devices what they should be, without their addresses. It returns all links as they are
// then, and whether something that was there is gone with what stood on it.
func (p *pass) ensureDevices(ctx context.Context, want []device) (links []rtnl.Link, err error) {
	links, err = p.conn.Links("")
	if err != nil {
		return nil, err
	}
	var msgs []*rtnl.Msg
	var remade []device
	for _, d := range want {
		i := slices.IndexFunc(links, func(l rtnl.Link) bool { return l.Name == d.name })
		if i < 0 {
			for _, l := range links {
				if p.site.o.renamed(l, d, want) {
					msgs = append(msgs, rtnl.DelLinkIndex(l.Index))
				}
			}
			remade = append(remade, d)
			continue
		}
		l := links[i]
		if err := p.site.o.mayUse(l, d); err != nil {
			return nil, err
		}
		if l.Tunnel() != d.tunnel {
			if d.shared && len(marked(l)) > 1 {
				return nil, fmt.Errorf("device %s has other parameters than are wanted (%s), and other networks use it: %s", d.name, otherParameters(l.Tunnel(), d.tunnel), l.Alias)
			}
			msgs = append(msgs, rtnl.DelLinkIndex(l.Index))
			remade = append(remade, d)
			continue
		}
		s, differs := p.site.o.mend(l, d, links)
		if s.Up { // its maker may have been killed half-way
			if err := noLinkLocal(p.conn, d.name); err != nil {
				return nil, err
			}
		}
		if differs {
			msgs = append(msgs, setLink(s)...)
		}
	}
	if len(msgs)+len(remade) == 0 {
		return links, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p.forget()
	if err := p.state.dropStamp(); err != nil {
		return nil, err
	}
	if err := p.conn.Do(msgs...); err != nil {
		return nil, err
	}
	for _, d := range remade {
		if err := p.make(d, links); err != nil {
			return nil, err
		}
	}
	return p.conn.Links("")
}

// renamed reports whether a link is what another program made of a device by giving it another name: it bears this network's
// mark alone, and holds the place of the wanted one.
func (o *Options) renamed(l rtnl.Link, d device, want []device) bool {
	who, t := marked(l), l.Tunnel()
	switch d.tunnel.(type) {
	case rtnl.VXLAN, rtnl.Geneve, rtnl.GRE, rtnl.IPTunnel:
		return len(who) == 1 && o.isMine(who[0]) && t == d.tunnel && excludes(t, d.tunnel) &&
			!slices.ContainsFunc(want, func(w device) bool { return w.name == l.Name })
	}
	return false
}

// mend is what is to be changed of a link that is the right one. Its MTU is settled when the paths are known.
func (o *Options) mend(l rtnl.Link, d device, all []rtnl.Link) (s rtnl.Set, differs bool) {
	s.Index = l.Index
	if d.mac != (inet.MAC{}) && l.MAC != d.mac {
		s.MAC, differs = d.mac, true
	}
	if !l.Up() {
		s.Up, differs = true, true
	}
	if !o.isOurs(l) {
		s.Alias, differs = o.joined(l), true
	}
	if d.bridge != "" {
		master := indexOf(all, d.bridge)
		if l.Master != master {
			s.Master, s.Port, differs = master, d.port, true
		}
		for _, f := range d.port {
			if !differs && portHas(l.Port, f) != f.On {
				s.Port, differs = d.port, true
			}
		}
	}
	return s, differs
}

// joined is the alias of a shared device with this network added.
func (o *Options) joined(l rtnl.Link) string {
	if have := marked(l); len(have) > 0 {
		return link.Root + strings.Join(append(have, link.Label(o.Network)), "+")
	}
	return o.alias()
}

// setLink is the change in as many messages as it takes: the kernel looks for a port's bridge before it makes it a port.
func setLink(s rtnl.Set) []*rtnl.Msg {
	if s.Master == 0 || len(s.Port) == 0 {
		return []*rtnl.Msg{rtnl.SetLink(s)}
	}
	port := rtnl.Set{Index: s.Index, Name: s.Name, Port: s.Port}
	s.Port = nil
	return []*rtnl.Msg{rtnl.SetLink(s), rtnl.SetLink(port)}
}

func (p *pass) make(d device, links []rtnl.Link) error {
	// That the second finds no device only follows from an error of the first.
	err := notThere(p.conn.Do(rtnl.NewTunnel(d.name, d.mac, 0, d.tunnel), rtnl.SetLink(rtnl.Set{Name: d.name, Alias: p.site.o.alias()})))
	if err == nil {
		err = errors.Join(noLinkLocal(p.conn, d.name), p.conn.Do(setLink(rtnl.Set{Name: d.name, Master: indexOf(links, d.bridge), Port: d.port, Up: true})...))
		if err != nil {
			err = errors.Join(err, p.conn.Do(rtnl.DelLink(d.name)))
		}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EOPNOTSUPP):
		return noKind(d, err)
	}
	for _, e := range []error{fs.ErrExist, unix.EBUSY, unix.EADDRINUSE, unix.EPERM} {
		if errors.Is(err, e) {
			return inTheWay(p.conn, d, err)
		}
	}
	return err
}

// noLinkLocal keeps the kernel from giving a device an address when it is set up. A kernel without IPv6 has none to give.
func noLinkLocal(c *rtnl.Conn, device string) error {
	return rtnl.Except(c.Do(rtnl.NoLinkLocal(device)), unix.EAFNOSUPPORT, unix.EOPNOTSUPP)
}

// mayUse fails if a link of the wanted name is not this network's to use.
func (o *Options) mayUse(l rtnl.Link, d device) error {
	who := marked(l)
	switch {
	case o.isOurs(l), len(who) > 0 && d.shared, o.Adopt && l.Alias == "" && l.Tunnel() == d.tunnel:
		return nil
	case len(who) > 0:
		return fmt.Errorf("device %s is that of network %s: state another name with key \"device\"", l.Name, strings.Join(who, ", "))
	}
	return fmt.Errorf("device %s (%s) is not ours, it does not bear the alias %s: remove it, or state another name with key \"device\"",
		l.Name, kindOf(l), o.alias())
}

func indexOf(links []rtnl.Link, name string) int {
	for _, l := range links {
		if name != "" && l.Name == name {
			return l.Index
		}
	}
	return 0
}

func kindOf(l rtnl.Link) string {
	if l.Kind == "" {
		return "no virtual device"
	}
	return "kind " + l.Kind
}

// inTheWay explains why a device cannot be made by naming the one that holds its place.
func inTheWay(c *rtnl.Conn, d device, cause error) error {
	links, err := c.Links("")
	if err != nil {
		return cause
	}
	for _, l := range links {
		if t := l.Tunnel(); t != nil && l.Name != d.name && excludes(t, d.tunnel) {
			return fmt.Errorf("device %s cannot be made while %s is there%s: %s; use another port, id or encapsulation, or remove it: %w",
				d.name, l.Name, owner(l), exclusion(t), cause)
		}
	}
	return fmt.Errorf("device %s cannot be made: something else in this namespace holds its UDP port or its place; "+
		"'ss -lun' and 'ip -d link' show what; use another port or encapsulation: %w", d.name, cause)
}

// excludes reports whether the kernel has no room for both.
func excludes(there, want rtnl.Tunnel) bool {
	switch w := want.(type) {
	case rtnl.VXLAN:
		t, ok := there.(rtnl.VXLAN)
		return ok && t.Port == w.Port && (t.External || w.External || t.VNI == w.VNI || t.GBP != w.GBP || t.GPE != w.GPE)
	case rtnl.Geneve:
		t, ok := there.(rtnl.Geneve)
		return ok && t.Port == w.Port && (t.External || w.External || t.VNI == w.VNI)
	case rtnl.GRE:
		t, ok := there.(rtnl.GRE)
		return ok && t.V6 == w.V6 && t.Tap == w.Tap && t.External == w.External &&
			t.Local == w.Local && t.Remote == w.Remote && t.Key == w.Key
	}
	return there == want
}

func exclusion(t rtnl.Tunnel) string {
	udp := func(external bool, port uint16, vni uint32) string {
		if external {
			return fmt.Sprintf("it takes all of UDP port %d", port)
		}
		return fmt.Sprintf("it has VNI %d on UDP port %d", vni, port)
	}
	only := "it is external, and there may be only one of kind " + t.Kind()
	switch t := t.(type) {
	case rtnl.VXLAN:
		return udp(t.External, t.Port, t.VNI)
	case rtnl.Geneve:
		return udp(t.External, t.Port, t.VNI)
	case rtnl.GRE:
		if !t.External {
			return fmt.Sprintf("it is the %s tunnel from %s to %s", t.Kind(), t.Local, t.Remote)
		}
		return only
	case rtnl.IPTunnel:
		if !t.External {
			return fmt.Sprintf("it is the %s tunnel of %s", t.Kind(), t.Local)
		}
		return only
	}
	return "it is of kind " + t.Kind()
}

// owner guesses by the name which program made a device.
func owner(l rtnl.Link) string {
	if who := marked(l); len(who) > 0 {
		return ", the device of network " + strings.Join(who, ", ")
	}
	for _, g := range []struct{ prefix, who string }{
		{"vxlan_sys_", "Open vSwitch"}, {"genev_sys_", "Open vSwitch"}, {"gre_sys", "Open vSwitch"},
		{"cilium_", "Cilium"}, {"flannel", "flannel"}, {"vxlan.calico", "Calico"}, {"vxlan-v6.calico", "Calico"}, {"weave", "Weave Net"},
		{"antrea-", "Antrea"},
	} {
		if strings.HasPrefix(l.Name, g.prefix) {
			return ", the device of " + g.who
		}
	}
	return ""
}

func portHas(p rtnl.Port, f rtnl.PortFlag) bool {
	switch f.Attr {
	case rtnl.Isolated:
		return p.Isolated
	case rtnl.NeighSuppress:
		return p.NeighSuppress
	case rtnl.Learning:
		return p.Learning
	case rtnl.Flood:
		return p.Flood
	}
	return p.Hairpin
}

// checkDevices is ensureDevices without a write.
func (p *pass) checkDevices(_ context.Context, want []device) ([]rtnl.Link, error) {
	links, err := p.conn.Links("")
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, d := range want {
		i := slices.IndexFunc(links, func(l rtnl.Link) bool { return l.Name == d.name })
		if i < 0 {
			errs = append(errs, fmt.Errorf("device %s is missing", d.name))
			continue
		}
		if err := p.site.o.mayUse(links[i], d); err != nil {
			errs = append(errs, err)
			continue
		}
		if t := links[i].Tunnel(); t != d.tunnel {
			errs = append(errs, fmt.Errorf("device %s has other parameters than are wanted: %s", d.name, otherParameters(t, d.tunnel)))
			continue
		}
		if s, differs := p.site.o.mend(links[i], d, links); differs {
			errs = append(errs, fmt.Errorf("device %s is not as it should be (%s)", d.name, wrong(s)))
		}
	}
	return links, errors.Join(errs...)
}

func wrong(s rtnl.Set) string {
	switch {
	case s.Up:
		return "it is down"
	case s.MAC != (inet.MAC{}):
		return "its MAC should be " + s.MAC.String()
	case s.Alias != "":
		return "its alias should be " + s.Alias
	}
	return "its place on the bridge"
}

//go:build linux

package nstest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"regexp"
	"sort"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/netns"
)

// Dump is the state of a namespace as text, one line an object, to be compared before and after: links with what is
// configured of them, addresses, routes of all tables, rules, permanent neighbours and FDB entries, bridge VLANs, the
// nft ruleset, and what the iptables programs list. What the kernel learns, counts or computes is left out. A part that
// cannot be read stands there with its error.
func Dump(ns *netns.NS) string { return (&Dumper{NS: ns}).Dump() }

// Dumper makes dumps of one namespace, one after another. It starts the programs that list packet filters only where they
// have something to list that they did not list for it before. It is for one goroutine.
type Dumper struct {
	NS     *netns.NS
	listed map[string]string // by what the kernel holds, and the program
}

// Dump is as [Dump] is.
func (d *Dumper) Dump() string {
	var out strings.Builder
	dumpNetlink(d.NS, &out)
	d.rulesets(&out)
	return out.String()
}

// DumpLinks is the part of [Dump] without the packet filters, which are asked of programs.
func DumpLinks(ns *netns.NS) string {
	var out strings.Builder
	dumpNetlink(ns, &out)
	return out.String()
}

// dumpNetlink is the part that needs no programs.
func dumpNetlink(ns *netns.NS, out *strings.Builder) {
	h, err := handle(ns)
	if err != nil {
		fmt.Fprintf(out, "netlink: %v\n", err)
		return
	}
	defer h.Close()
	d := dumper{h: h, names: map[int]string{}}
	for _, part := range []struct {
		title string
		lines func() ([]string, error)
	}{
		{"link", d.links}, {"address", d.addrs}, {"route", d.routes}, {"rule", d.rules},
		{"neighbour", d.neighs}, {"fdb", d.fdb}, {"vlan", d.vlans},
	} {
		lines, err := part.lines()
		if err != nil {
			lines = append(lines, "error: "+err.Error())
		}
		sort.Strings(lines)
		for _, l := range lines {
			fmt.Fprintf(out, "%s %s\n", part.title, l)
		}
	}
}

type dumper struct {
	h     *netlink.Handle
	names map[int]string // of the links, by index
}

func (d *dumper) name(index int) string {
	if n, ok := d.names[index]; ok || index == 0 {
		return n
	}
	return fmt.Sprintf("#%d", index)
}

func (d *dumper) links() ([]string, error) {
	links, err := d.h.LinkList()
	for _, l := range links {
		d.names[l.Attrs().Index] = l.Attrs().Name
	}
	var out []string
	for _, l := range links {
		if !fallback[l.Attrs().Name] {
			out = append(out, d.link(l))
		}
	}
	return out, err
}

// fallback are the devices that a tunnel's module makes in every namespace when it is loaded, by whomever.
var fallback = map[string]bool{"tunl0": true, "gre0": true, "gretap0": true, "erspan0": true, "sit0": true, "ip6tnl0": true, "ip6gre0": true, "ip_vti0": true, "ip6_vti0": true}

func (d *dumper) link(l netlink.Link) string {
	a := *l.Attrs()
	s := fmt.Sprintf("%d %s %s mtu %d mac %s", a.Index, a.Name, l.Type(), a.MTU, a.HardwareAddr)
	if a.Flags&net.FlagUp != 0 {
		s += " up"
	}
	if a.Promisc != 0 {
		s += " promisc"
	}
	if a.MasterIndex != 0 {
		s += " master " + d.name(a.MasterIndex)
		if p, err := d.h.LinkGetProtinfo(l); err == nil {
			s += " port [" + p.String() + "]"
		}
	}
	if a.Alias != "" {
		s += fmt.Sprintf(" alias %q", a.Alias)
	}
	if a.ParentIndex != 0 && a.NetNsID < 0 {
		s += " link " + d.name(a.ParentIndex)
	}
	return s + details(l)
}

// details are the parameters of the link's kind that are not zero.
func details(l netlink.Link) string {
	*l.Attrs() = netlink.LinkAttrs{}
	b, err := json.Marshal(l)
	if err != nil {
		return " " + err.Error()
	}
	var all map[string]any
	if err := json.Unmarshal(b, &all); err != nil {
		return " " + err.Error()
	}
	var out []string
	for k, v := range all {
		switch v {
		case nil, 0.0, false, "":
			continue
		}
		if _, nested := v.(map[string]any); nested {
			continue
		}
		out = append(out, fmt.Sprintf(" %s=%v", k, v))
	}
	sort.Strings(out)
	return strings.Join(out, "")
}

func (d *dumper) addrs() ([]string, error) {
	addrs, err := d.h.AddrList(nil, unix.AF_UNSPEC)
	var out []string
	for _, a := range addrs {
		s := fmt.Sprintf("%s %s scope %d", d.name(a.LinkIndex), a.IPNet, a.Scope)
		if a.Peer != nil && a.Peer.String() != a.IPNet.String() {
			s += " peer " + a.Peer.String()
		}
		if a.Flags&unix.IFA_F_NODAD != 0 {
			s += " nodad"
		}
		out = append(out, s)
	}
	return out, err
}

func (d *dumper) routes() ([]string, error) {
	var out []string
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := d.h.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return out, err
		}
		for _, r := range routes {
			s := fmt.Sprintf("table %d %s dev %s via %s src %s proto %d scope %d type %d metric %d mtu %d advmss %d flags %v",
				r.Table, r.Dst, d.name(r.LinkIndex), r.Gw, r.Src, r.Protocol, r.Scope, r.Type, r.Priority, r.MTU, r.AdvMSS, r.ListFlags())
			if r.Via != nil {
				s += " inet via " + r.Via.String()
			}
			if r.Encap != nil {
				s += " encap " + r.Encap.String()
			}
			for _, hop := range r.MultiPath {
				s += fmt.Sprintf(" hop dev %s via %s weight %d", d.name(hop.LinkIndex), hop.Gw, hop.Hops+1)
			}
			out = append(out, s)
		}
	}
	return out, nil
}

func (d *dumper) rules() ([]string, error) {
	var out []string
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := d.h.RuleList(family)
		if err != nil {
			return out, err
		}
		for _, r := range rules {
			out = append(out, fmt.Sprintf("family %d %s proto %d", family, r, r.Protocol))
		}
	}
	return out, nil
}

func (d *dumper) neighs() ([]string, error) {
	var out []string
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		neighs, err := d.h.NeighListExecute(netlink.Ndmsg{Family: family})
		if err != nil {
			return out, err
		}
		for _, n := range neighs {
			if n.State&netlink.NUD_PERMANENT != 0 {
				out = append(out, fmt.Sprintf("%s dev %s lladdr %s flags %#x", n.IP, d.name(n.LinkIndex), n.HardwareAddr, n.Flags))
			}
		}
	}
	return out, nil
}

func (d *dumper) fdb() ([]string, error) {
	neighs, err := d.h.NeighListExecute(netlink.Ndmsg{Family: unix.AF_BRIDGE})
	var out []string
	for _, n := range neighs {
		if n.State&(netlink.NUD_PERMANENT|netlink.NUD_NOARP) != 0 && !fallback[d.name(n.LinkIndex)] {
			out = append(out, fmt.Sprintf("%s dev %s master %s dst %s vni %d vlan %d flags %#x state %#x",
				n.HardwareAddr, d.name(n.LinkIndex), d.name(n.MasterIndex), n.IP, n.VNI, n.Vlan, n.Flags, n.State))
		}
	}
	return out, err
}

func (d *dumper) vlans() ([]string, error) {
	ports, err := d.h.BridgeVlanList()
	var out []string
	for index, vlans := range ports {
		for _, v := range vlans {
			out = append(out, fmt.Sprintf("%s %d flags %#x", d.name(int(index)), v.Vid, v.Flags))
		}
	}
	return out, err
}

var counters = regexp.MustCompile(`(?m)^#.*\n| ?\[\d+:\d+\]`)

// rulesets asks the programs that are there. None of them changes anything by being asked.
func (d *Dumper) rulesets(out *strings.Builder) {
	raw, err := packetRules(d.NS)
	if err != nil {
		fmt.Fprintf(out, "error: %v\n", err)
	}
	legacy, err := d.legacyTables()
	if err != nil {
		fmt.Fprintf(out, "error: %v\n", err)
	}
	for _, p := range []struct {
		argv   []string
		legacy bool // it lists tables of the kernel's own iptables
		family byte // of the nftables that it lists; 0 is all
	}{
		{argv: []string{"nft", "--stateless", "list", "ruleset"}},
		{argv: []string{"iptables-legacy-save"}, legacy: true},
		{argv: []string{"ip6tables-legacy-save"}, legacy: true},
		{argv: []string{"iptables-save"}, family: unix.NFPROTO_IPV4}, // of either sort
		{argv: []string{"ip6tables-save"}, family: unix.NFPROTO_IPV6},
	} {
		something := raw != ""
		switch {
		case p.legacy:
			something = legacy
		case p.family != 0:
			something = legacy || strings.Contains(raw, fmt.Sprintf("nftables table %d ", p.family))
		}
		if something {
			out.WriteString(d.list(p.argv, raw, legacy))
		}
	}
}

// legacyTables reports whether there are tables of the kernel's own iptables; nothing but the program tells what is in them.
func (d *Dumper) legacyTables() (there bool, err error) {
	return there, d.NS.Do(func() error {
		for _, name := range []string{"ip_tables_names", "ip6_tables_names"} {
			b, err := os.ReadFile("/proc/thread-self/net/" + name)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			there = there || len(b) > 0
		}
		return nil
	})
}

// list is what a program lists.
func (d *Dumper) list(argv []string, raw string, legacy bool) string {
	key := argv[0] + "\n" + raw
	if known, ok := d.listed[key]; ok && !legacy {
		return known
	}
	path, err := exec.LookPath(argv[0])
	switch {
	case err != nil && argv[0] == "nft": // it is all there, if not for people
		return raw
	case err != nil:
		return ""
	}
	var text, complaint bytes.Buffer
	err = d.NS.Do(func() error {
		cmd := exec.Command(path, argv[1:]...)
		cmd.Stdout, cmd.Stderr = &text, &complaint
		return cmd.Run()
	})
	body := strings.TrimSpace(counters.ReplaceAllString(text.String(), ""))
	if err != nil {
		body = strings.TrimSpace(fmt.Sprintf("%s\nerror: %v %s", body, err, strings.TrimSpace(complaint.String())))
	}
	if body != "" {
		body = fmt.Sprintf("%s (%d lines)\n%s\n", argv[0], strings.Count(body, "\n")+1, body)
	}
	if err == nil && !legacy {
		if d.listed == nil {
			d.listed = map[string]string{}
		}
		d.listed[key] = body
	}
	return body
}

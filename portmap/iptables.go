//go:build linux

package portmap

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/cniblocks/cniblocks/internal/base/mark"
	"github.com/cniblocks/cniblocks/internal/base/sentinel"
	"github.com/cniblocks/cniblocks/internal/kernel/chains"
	"github.com/cniblocks/cniblocks/internal/kernel/nft"
	"github.com/cniblocks/cniblocks/internal/kernel/xtables"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/sysctl"
)

// IPTables is the backend that the programs iptables-save and iptables-restore keep, in whichever packet filter: for each pod a
// chain, to which a chain for all of them jumps by the ports. Packets whose source address is to be replaced are marked on
// the way.
type IPTables struct {
	NS           *netns.NS
	MarkBit      int      // 0 to 31
	SetMarkChain string   // in table nat, that marks packets in place of ours, and whose maker replaces the source; empty is none
	ConditionsV4 []string // what iptables(8) is to match besides the port
	ConditionsV6 []string
}

var _ Backend = IPTables{}

var hostPortLayout = chains.Layout{Table: "nat"}

const (
	mentions     = mark.Word + " hostport "      // begins the comments of the jumps to pods' chains, before device and label
	loopbackNote = mark.Word + " route_localnet" // comment of a rule that names a link whose route_localnet was 0
	mostPorts    = 15                            // in a rule with multiport
)

func quote(arg string) string {
	if arg != "" && !strings.ContainsAny(arg, " \t'\"\\") {
		return arg
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(arg) + `"`
}

// validate keeps anything but a part of a rule from reaching the program's input, which has one in each line.
func (t IPTables) validate() error {
	if t.MarkBit < 0 || t.MarkBit > 31 {
		return fmt.Errorf("host ports: mark bit %d: want 0 to 31", t.MarkBit)
	}
	if n := t.SetMarkChain; n != "" && (len(n) > 28 || strings.ContainsFunc(n, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`"'\`, r) }) || n[0] == '-') {
		return fmt.Errorf("host ports: chain %q that sets a mark: want the name of a chain of iptables", n)
	}
	for _, c := range slices.Concat(t.ConditionsV4, t.ConditionsV6) {
		if strings.ContainsFunc(c, func(r rune) bool { return r < ' ' }) {
			return fmt.Errorf("host ports: condition %q: want an argument of iptables, without control characters", c)
		}
	}
	return nil
}

func (t IPTables) bits() string { return fmt.Sprintf("%#x", uint32(1)<<t.MarkBit) }

// Set implements [Backend].
func (t IPTables) Set(ctx context.Context, p Pod) error {
	if err := errors.Join(p.Validate(), t.validate()); err != nil {
		return err
	}
	unlock, err := t.NS.Lock(ctx)
	if err != nil {
		return fail(p.Owner, err)
	}
	defer unlock()
	return fail(p.Owner, t.set(ctx, p))
}

func (t IPTables) set(ctx context.Context, p Pod) error {
	others, err := Table{NS: t.NS}.List(ctx)
	if err != nil {
		return err
	}
	if err := refuseAny(ctx, t.NS, p, others); err != nil {
		return err
	}
	device, opens := "", false
	if p.loops() {
		if device, err = wayTo(t.NS, p.addr(true).Addr()); err != nil {
			return err
		}
		value, err := sysctl.Get(t.NS, routeLocalnet(device))
		if err != nil {
			return err
		}
		opens = value == "0" && device != p.Device
	}
	for _, f := range []xtables.Family{4, 6} {
		if len(p.of(f == 4)) == 0 {
			continue
		}
		note := ""
		if f == 4 && opens {
			note = device
		}
		err := t.change(ctx, f, func(rs xtables.Ruleset) ([]string, error) {
			held := read(rs, f)
			if err := refuseAny(ctx, t.NS, p, held); err != nil {
				return nil, err
			}
			lines := xtables.Deletions(mark.HostPortChain, rs.Jumps(mark.HostPortChain, mark.PortChain(label(p.Owner))))
			for _, o := range held { // those of whoever is gone
				if o.Owner != label(p.Owner) && overlap(o, p) {
					lines = append(lines, podRemoval(rs, mark.PortChain(o.Owner))...)
				}
			}
			return append(lines, t.script(rs, f, p, note)...), nil
		})
		if err != nil {
			return err
		}
	}
	if device != "" {
		if err := sysctl.Ensure(t.NS, sysctl.Var{Key: routeLocalnet(device), Value: "1"}); err != nil {
			return err
		}
	}
	c, err := nft.Open(t.NS)
	if err != nil {
		return err
	}
	return endStale(ctx, t.NS, c, p)
}

func overlap(a, b Pod) bool {
	for _, m := range a.Maps {
		for _, o := range b.Maps {
			if m.overlaps(o) {
				return true
			}
		}
	}
	return false
}

// change applies what plan makes of the table nat.
func (t IPTables) change(ctx context.Context, f xtables.Family, plan func(xtables.Ruleset) ([]string, error)) error {
	prog, err := xtables.Find(f)
	if err != nil {
		return err
	}
	return prog.Update(ctx, t.NS, "nat", plan)
}

// entry are the rules that jump to what all pods have in common.
type entry struct{ base, target, rule string }

func (t IPTables) entries(f xtables.Family, snat bool) []entry {
	local, comment := `-m addrtype --dst-type LOCAL `, `-m comment --comment "`+mark.Word+`" -j `
	out := local
	if f == 6 {
		out = "! -d ::1/128 " + local
	}
	list := []entry{{"PREROUTING", mark.HostPortChain, local + comment + mark.HostPortChain}, {"OUTPUT", mark.HostPortChain, out + comment + mark.HostPortChain}}
	if snat {
		list = append(list, entry{"POSTROUTING", mark.HostPortMasq, comment + mark.HostPortMasq})
	}
	return list
}

// script adds the pod; to name a chain in the form of iptables-save makes or empties it.
func (t IPTables) script(rs xtables.Ruleset, f xtables.Family, p Pod, note string) (lines []string) {
	own := mark.PortChain(label(p.Owner))
	masq := p.SNAT != SNATNone && t.SetMarkChain == ""
	if _, ok := rs[mark.HostPortChain]; !ok {
		lines = append(lines, ":"+mark.HostPortChain+" - [0:0]")
	}
	if _, ok := rs[mark.HostPortMasq]; !ok && (masq || note != "") {
		lines = append(lines, ":"+mark.HostPortMasq+" - [0:0]")
	}
	lines = append(lines, ":"+own+" - [0:0]")
	for _, e := range t.entries(f, masq || note != "") {
		if len(rs.Jumps(e.base, e.target)) == 0 {
			lines = append(lines, "-I "+e.base+" 1 "+e.rule)
		}
	}
	if rule := `-m mark --mark ` + t.bits() + "/" + t.bits(); masq && !slices.ContainsFunc(rs[mark.HostPortMasq].Rules, func(r xtables.Rule) bool { return r.Mark == 1<<t.MarkBit }) {
		lines = append(lines, "-A "+mark.HostPortMasq+" "+rule+` -m comment --comment "`+mark.Word+`" -j MASQUERADE --random-fully`)
	}
	if note != "" {
		lines = append(lines, "-A "+mark.HostPortMasq+" -o "+quote(note)+` -m comment --comment "`+loopbackNote+`"`)
	}
	lines = append(lines, t.jumps(f, p, own)...)
	for _, rule := range t.rules(f, p) {
		lines = append(lines, "-A "+own+" "+rule)
	}
	return lines
}

// jumps lead from the chain of all to the pod's, by protocol and port.
func (t IPTables) jumps(f xtables.Family, p Pod, own string) (lines []string) {
	conditions := t.ConditionsV4
	if f == 6 {
		conditions = t.ConditionsV6
	}
	for _, proto := range protos {
		var ports []string
		for _, m := range p.of(f == 4) {
			if port := strconv.Itoa(int(m.Host.Port())); m.Proto == proto && !slices.Contains(ports, port) {
				ports = append(ports, port)
			}
		}
		for some := range slices.Chunk(ports, mostPorts) {
			line := "-A " + mark.HostPortChain + " -p " + proto.String()
			if p.SNAT == SNATNone && f == 4 && !slices.Contains(conditions, "-d") {
				line += " ! -d 127.0.0.0/8"
			}
			line += " -m multiport --dports " + strings.Join(some, ",")
			for _, c := range conditions {
				line += " " + quote(c)
			}
			lines = append(lines, line+` -m comment --comment "`+mentions+dash(p.Device)+" "+label(p.Owner)+`" -j `+own)
		}
	}
	return lines
}

// rules are those of the pod's chain: which packets to mark, where they go.
func (t IPTables) rules(f xtables.Family, p Pod) (rules []string) {
	for _, m := range p.of(f == 4) {
		match := "-p " + m.Proto.String() + " -m " + m.Proto.String() + " --dport " + strconv.Itoa(int(m.Host.Port()))
		if !m.any() {
			match = "-d " + netip.PrefixFrom(m.Host.Addr(), m.Host.Addr().BitLen()).String() + " " + match
		}
		for _, from := range t.sources(f, p) {
			to := "MARK --set-xmark " + t.bits() + "/" + t.bits()
			if t.SetMarkChain != "" {
				to = t.SetMarkChain
			}
			rules = append(rules, from+match+" -j "+to)
		}
		rules = append(rules, match+" -j DNAT --to-destination "+m.Pod.String())
	}
	return rules
}

// sources are whose packets are marked.
func (t IPTables) sources(f xtables.Family, p Pod) []string {
	switch {
	case p.SNAT == SNATNone:
		return nil
	case p.SNAT == SNATAll:
		return []string{""}
	case f == 6:
		return []string{"-s " + p.addr(false).Masked().String() + " "}
	}
	return []string{"-s " + p.addr(true).Masked().String() + " ", "-s " + loopback4.String() + " "}
}

// podRemoval deletes a pod's chain with the jumps to it.
func podRemoval(rs xtables.Ruleset, own string) []string {
	lines := xtables.Deletions(mark.HostPortChain, rs.Jumps(mark.HostPortChain, own))
	if _, ok := rs[own]; ok {
		lines = append(lines, "-F "+own, "-X "+own)
	}
	return lines
}

// read finds the pods in table nat.
func read(rs xtables.Ruleset, f xtables.Family) []Pod {
	var pods podList
	for _, r := range rs[mark.HostPortChain].Rules {
		rest, ok := strings.CutPrefix(r.Comment, mentions)
		device, label, ok2 := strings.Cut(rest, " ")
		if !ok || !ok2 || pods[label] != nil {
			continue
		}
		p := pods.of(label)
		p.Device = undash(device)
		p.SNAT = SNATNone
		for _, rule := range rs[r.Target].Rules {
			m, ok := readDNAT(f, rule.Text)
			switch {
			case ok:
				p.Maps = append(p.Maps, m)
				if len(p.Addrs) == 0 {
					p.Addrs = []netip.Prefix{netip.PrefixFrom(m.Pod.Addr(), m.Pod.Addr().BitLen())}
				}
			case p.SNAT != SNATNeeded && !strings.Contains(" "+rule.Text, " -s "):
				p.SNAT = SNATAll
			default:
				p.SNAT = SNATNeeded
			}
		}
	}
	return pods.sorted()
}

// readDNAT reads a rule of a pod's chain as iptables-save writes it.
func readDNAT(f xtables.Family, text string) (m Map, ok bool) {
	host := netip.IPv4Unspecified()
	if f == 6 {
		host = netip.IPv6Unspecified()
	}
	var port uint64
	words := strings.Fields(text)
	for i, w := range words[:max(len(words)-1, 0)] {
		var err error
		switch next := words[i+1]; w {
		case "-p":
			m.Proto, err = ParseProto(next)
		case "-d":
			var p netip.Prefix
			p, err = netip.ParsePrefix(next)
			host = p.Addr()
		case "--dport":
			port, err = strconv.ParseUint(next, 10, 16)
		case "--to-destination":
			m.Pod, err = netip.ParseAddrPort(next)
			ok = err == nil
		}
		if err != nil {
			return m, false
		}
	}
	m.Host = netip.AddrPortFrom(host, uint16(port))
	return m, ok && port > 0
}

// list reads the pods of a family, from where the programs keep them. Where nothing is kept it starts no program.
func (t IPTables) list(ctx context.Context, f xtables.Family) ([]Pod, error) {
	there, err := hostPortLayout.Mentioned(t.NS, f, mark.HostPortChain)
	if err != nil || !there {
		return nil, err
	}
	prog, err := xtables.Find(f)
	if err != nil {
		return nil, err
	}
	rs, err := prog.Save(ctx, t.NS, "nat")
	return read(rs, f), err
}

// List implements [Backend].
func (t IPTables) List(ctx context.Context) ([]Pod, error) {
	var pods podList
	for _, f := range []xtables.Family{4, 6} {
		list, err := t.list(ctx, f)
		if err != nil {
			return nil, fmt.Errorf("host ports: %w", err)
		}
		for _, o := range list {
			p := pods.of(o.Owner)
			p.Device, p.SNAT = o.Device, o.SNAT
			p.Addrs, p.Maps = append(p.Addrs, o.Addrs...), append(p.Maps, o.Maps...)
		}
	}
	return pods.sorted(), nil
}

// Check implements [Backend].
func (t IPTables) Check(ctx context.Context, p Pod) error {
	if err := errors.Join(p.Validate(), t.validate()); err != nil {
		return err
	}
	var wrong []string
	for _, f := range []xtables.Family{4, 6} {
		if len(p.of(f == 4)) == 0 {
			continue
		}
		prog, err := xtables.Find(f)
		if err != nil {
			return fail(p.Owner, err)
		}
		rs, err := prog.Save(ctx, t.NS, "nat")
		if err != nil {
			return fail(p.Owner, err)
		}
		wrong = append(wrong, t.faults(rs, f, p)...)
	}
	if p.loops() {
		device, err := wayTo(t.NS, p.addr(true).Addr())
		if err == nil {
			err = checkLoopback(t.NS, device, p)
		}
		if err != nil {
			wrong = append(wrong, err.Error())
		}
	}
	if len(wrong) > 0 {
		return fail(p.Owner, errors.New(strings.Join(wrong, "; ")))
	}
	return nil
}

func (t IPTables) faults(rs xtables.Ruleset, f xtables.Family, p Pod) (wrong []string) {
	own := mark.PortChain(label(p.Owner))
	masq := p.SNAT != SNATNone && t.SetMarkChain == ""
	for _, e := range t.entries(f, masq) {
		if n := len(rs.Jumps(e.base, e.target)); n != 1 {
			wrong = append(wrong, fmt.Sprintf("%d rules instead of 1 in chain %s jump to %s", n, e.base, e.target))
		}
	}
	if masq && !slices.ContainsFunc(rs[mark.HostPortMasq].Rules, func(r xtables.Rule) bool { return r.Mark == 1<<t.MarkBit && r.Target == "MASQUERADE" }) {
		wrong = append(wrong, fmt.Sprintf("chain %s masquerades no packets with the mark %s", mark.HostPortMasq, t.bits()))
	}
	if want, have := len(t.jumps(f, p, own)), len(rs.Jumps(mark.HostPortChain, own)); want != have {
		wrong = append(wrong, fmt.Sprintf("%d rules instead of %d in chain %s jump to %s", have, want, mark.HostPortChain, own))
	}
	var maps []Map
	marks := 0
	for _, r := range rs[own].Rules {
		if m, ok := readDNAT(f, r.Text); ok {
			maps = append(maps, m)
		} else {
			marks++
		}
	}
	for _, m := range p.of(f == 4) {
		if !slices.Contains(maps, m) {
			wrong = append(wrong, fmt.Sprintf("chain %s does not lead %s to %s", own, m, m.Pod))
		}
	}
	if want := len(t.sources(f, p)) * len(p.of(f == 4)); marks != want {
		wrong = append(wrong, fmt.Sprintf("%d rules instead of %d in chain %s mark packets", marks, want, own))
	}
	return wrong
}

// Remove implements [Backend]. Where nothing is kept it starts no program.
func (t IPTables) Remove(ctx context.Context, owner string, _ ...Map) error {
	return fail(owner, t.sweep(ctx, mark.PortChain(label(owner)), func(l string) bool { return l == label(owner) }))
}

// Retain implements [Backend].
func (t IPTables) Retain(ctx context.Context, prefix string, live []string) error {
	if err := t.sweep(ctx, mark.HostPortChain, dead(prefix, live)); err != nil {
		return fmt.Errorf("host ports: %w", err)
	}
	return nil
}

// sweep removes the pods of labels wherever the chain is, and with the last pod the rest.
func (t IPTables) sweep(ctx context.Context, chain string, gone func(label string) bool) error {
	unlock, err := t.NS.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	for _, f := range []xtables.Family{4, 6} {
		there, err := hostPortLayout.Mentioned(t.NS, f, chain)
		if err != nil {
			return err
		}
		if !there {
			continue
		}
		var maps []Map
		var devices []string
		err = t.change(ctx, f, func(rs xtables.Ruleset) (lines []string, err error) {
			maps, devices = nil, nil
			var own []string
			left := len(rs[mark.HostPortChain].Rules)
			for _, p := range read(rs, f) {
				if gone(p.Owner) {
					maps = append(maps, p.Maps...)
					own = append(own, mark.PortChain(p.Owner))
					left -= len(rs.Jumps(mark.HostPortChain, mark.PortChain(p.Owner)))
				}
			}
			if left == 0 {
				lines, devices = trunkRemoval(rs, own)
				return lines, nil
			}
			for _, chain := range own {
				lines = append(lines, podRemoval(rs, chain)...)
			}
			return lines, nil
		})
		if err != nil {
			return err
		}
		if err := closeLoopback(ctx, t.NS, devices, true); err != nil {
			return err
		}
		c, err := nft.Open(t.NS)
		if err == nil {
			err = endOf(c, maps)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// trunkRemoval deletes the last pods' chains and what pods have in common, and reads whose route_localnet was 0.
func trunkRemoval(rs xtables.Ruleset, own []string) (lines, devices []string) {
	for _, r := range rs[mark.HostPortMasq].Rules {
		if words := strings.Fields(r.Text); r.Comment == loopbackNote && len(words) > 1 && words[0] == "-o" {
			devices = append(devices, words[1])
		}
	}
	for _, e := range (IPTables{}).entries(4, true) {
		lines = append(lines, xtables.Deletions(e.base, rs.Jumps(e.base, e.target))...)
	}
	all := slices.DeleteFunc(append([]string{mark.HostPortChain, mark.HostPortMasq}, own...), func(chain string) bool {
		_, ok := rs[chain]
		return !ok
	})
	for _, what := range []string{"-F ", "-X "} { // iptables-nft 1.8.9 deletes no chain that a rule flushed later still names
		for _, chain := range all {
			lines = append(lines, what+chain)
		}
	}
	return lines, devices
}

// Ready implements [Backend].
func (t IPTables) Ready(context.Context) error {
	if err := t.NS.Check(); err != nil {
		return err
	}
	if _, err := xtables.Find(4); err != nil {
		return sentinel.Errorf(errors.ErrUnsupported, `host ports: %w, or use the backend "nftables", which needs no program`, err)
	}
	return t.validate()
}

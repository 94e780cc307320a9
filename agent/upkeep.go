//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/sysctl"
)

// need is a kernel parameter that the pods' packets depend on.
type need struct {
	key   string            // below /proc/sys
	right func(string) bool // of its value
	value string            // what is written where it is not
	mild  bool              // packets pass all the same: where it cannot be written, that is told and no more
}

// upkeep keeps the parameters and routing rules as pods need them.
type upkeep struct {
	*core
	nets    *carriers
	heeded  atomic.Pointer[map[int]bool] // links whose parameters count; the monitor's goroutine reads it too
	truces  map[string]*truce
	nfcall  map[string]string // bridge-nf-call as it was found
	refused map[string]bool   // mild ones that cannot be written
	at      time.Time         // of the last look
	told    string
	seen    bool  // there was a look
	tunnels []int // that stood then
	fresh   bool  // at this look some are new: nobody has changed them
}

func newUpkeep(c *core, nets *carriers) *upkeep {
	return &upkeep{core: c, nets: nets, truces: map[string]*truce{}, nfcall: map[string]string{}, refused: map[string]bool{}}
}

// fault is what is not as it should be: a parameter or a rule.
type fault struct {
	name, is string
	need     need
	rule     rtnl.Rule
}

func (f fault) String() string { return f.name + " " + f.is }

// truce keeps the agent from a war with another writer: it puts a thing back at once for some times, and then waits ever
// longer.
type truce struct {
	times      int
	last, next time.Time
}

const (
	atOnce     = 5
	firstTruce = 100 * time.Millisecond
	longTruce  = 5 * time.Second
	peace      = 3 * longTruce // of this length, and the war is over
)

func (t *truce) strike(now time.Time) {
	t.times++
	t.last, t.next = now, now
	if over := t.times - atOnce; over >= 0 {
		t.next = now.Add(min(firstTruce<<min(over, 10), longTruce))
	}
}

func (t *truce) over(now time.Time) bool { return now.Sub(t.last) > peace }
func (t *truce) war() bool               { return t.times > atOnce }

// places are the links that pods' packets pass.
type places struct {
	tunnels, bridges, uplinks []string
	marked                    []string // bridges that bear our mark
	advertised                []string // with a default route by router advertisement
}

// places finds the links, and names those whose parameters count to the goroutine that hears the kernel.
func (u *upkeep) places() (p places, err error) {
	index := map[int]bool{rtnl.AllLinks: true, rtnl.DefaultLinks: true}
	defer func() { u.heeded.Store(&index) }()
	tunnels := map[int]bool{}
	for _, c := range u.nets.each() {
		for _, i := range c.Links() {
			tunnels[i] = true
		}
	}
	now := slices.Sorted(maps.Keys(tunnels))
	u.fresh, u.tunnels, u.seen = !u.seen || !slices.Equal(now, u.tunnels), now, true
	addrs, err := u.conn.Addrs(0)
	if err != nil {
		return p, err
	}
	add := func(to *[]string, i int) (l rtnl.Link, ok bool) {
		l, err := u.conn.LinkByIndex(i)
		if err != nil || slices.Contains(*to, l.Name) {
			return l, false // it goes
		}
		index[i] = true
		*to = append(*to, l.Name)
		return l, true
	}
	pods := append(slices.Clone(u.self.Pods), u.former...)
	for _, a := range addrs {
		ip := a.Prefix.Addr()
		switch {
		case tunnels[a.Link]:
		case ip == u.self.V4.Addr || ip == u.self.V6.Addr:
			add(&p.uplinks, a.Link)
		case slices.ContainsFunc(pods, func(n netip.Prefix) bool { return n.Contains(ip) }):
			if l, ok := add(&p.bridges, a.Link); ok && l.Group == bridge.Group {
				p.marked = append(p.marked, l.Name)
			}
		}
	}
	for _, c := range u.nets.each() {
		for _, i := range c.Links() {
			if !c.L2 { // else it is a port
				add(&p.tunnels, i)
			}
		}
	}
	if !u.has(inet.IPv6) {
		return p, nil
	}
	routes, err := u.conn.Routes(rtnl.RouteFilter{Family: unix.AF_INET6, Proto: unix.RTPROT_RA})
	for _, route := range routes {
		if route.Dst.Bits() == 0 && route.Link != 0 {
			add(&p.advertised, route.Link)
		}
	}
	return p, err
}

func not(bad ...string) func(string) bool {
	return func(v string) bool { return !slices.Contains(bad, v) }
}

func only(good string) func(string) bool { return func(v string) bool { return v == good } }

// needs are the parameters, in the order in which they are to be written.
func (u *upkeep) needs(p places) (all []need) {
	const v4, v6 = "net/ipv4/conf/", "net/ipv6/conf/"
	want := func(key string, right func(string) bool, value string) {
		all = append(all, need{key: key, right: right, value: value})
	}
	mild := func(key string, right func(string) bool, value string) {
		all = append(all, need{key: key, right: right, value: value, mild: true})
	}
	if u.has(inet.IPv6) {
		for _, l := range p.advertised { // the kernel takes the route away when it begins to forward, unless this is 2
			mild(v6+l+"/accept_ra", not("1"), "2")
		}
		want(v6+"all/forwarding", not("0"), "1")
		for _, l := range slices.Concat(p.tunnels, p.bridges) {
			want(v6+l+"/disable_ipv6", only("0"), "0")
		}
	}
	for _, l := range slices.Concat(p.tunnels, p.marked) {
		mild(v6+l+"/accept_ra", only("0"), "0")
	}
	if u.has(inet.IPv4) {
		want("net/ipv4/ip_forward", not("0"), "1")
		want(v4+"default/forwarding", not("0"), "1")
		for _, l := range slices.Concat(p.tunnels, p.bridges, p.uplinks) {
			want(v4+l+"/forwarding", not("0"), "1")
		}
		for _, l := range append([]string{"all"}, p.bridges...) {
			want(v4+l+"/arp_ignore", not("8"), "0") // 8 answers nobody
		}
	}
	filter := "0" // the larger one of all and a link counts
	if u.value(v4+"all/rp_filter") == "1" {
		filter = "2"
	}
	for _, l := range p.tunnels {
		// Peers send from their own addresses too, which are not routed through the tunnel.
		mild(v4+l+"/rp_filter", func(v string) bool { return v == filter || v == "2" }, filter)
		for _, k := range []string{"proxy_arp", "accept_local", "route_localnet"} {
			mild(v4+l+"/"+k, only("0"), "0")
		}
		mild(v6+l+"/proxy_ndp", only("0"), "0")
	}
	for _, k := range []string{"iptables", "ip6tables"} {
		key := "net/bridge/bridge-nf-call-" + k
		if v := u.value(key); u.nfcall[key] == "" && v != "" {
			u.nfcall[key] = v
		}
		if u.nfcall[key] == "1" {
			want(key, only("1"), "1")
		}
	}
	return all
}

// value is a parameter's, "" where the kernel has none.
func (u *upkeep) value(key string) string {
	v, err := sysctl.Get(u.NS, key)
	if err != nil {
		return ""
	}
	return v
}

// faults compares parameters and rules with what pods need.
func (u *upkeep) faults() (wrong []fault, err error) {
	p, err := u.places()
	if err != nil {
		return nil, err
	}
	err = u.NS.Visit(func() error {
		for _, n := range u.needs(p) {
			v := u.value(n.key)
			if v != "" && !n.right(v) && !u.refused[n.key] {
				wrong = append(wrong, fault{name: "sysctl " + n.key, is: "is " + v, need: n})
			}
		}
		return nil
	})
	rules, failed := u.missingRules()
	return append(wrong, rules...), errors.Join(err, failed)
}

// missingRules are the kernel's own rules by which packets come to the tables local and main. Another program may have
// moved them, as some do, or made one that does the same.
func (u *upkeep) missingRules() (missing []fault, err error) {
	rules, err := u.conn.Rules()
	if err != nil {
		return nil, err
	}
	number := map[inet.Family]uint8{inet.IPv4: unix.AF_INET, inet.IPv6: unix.AF_INET6}
	for _, f := range inet.Families {
		if !u.has(f) && !u.self.Endpoint(f).Addr.IsValid() {
			continue
		}
		for _, w := range []rtnl.Rule{{Priority: 0, Table: unix.RT_TABLE_LOCAL}, {Priority: 32766, Table: unix.RT_TABLE_MAIN}} {
			w.Family = number[f]
			if !slices.ContainsFunc(rules, func(h rtnl.Rule) bool { return h.Plain && h.Family == w.Family && h.Table == w.Table }) {
				name := fmt.Sprintf("the %s routing rule that looks into table %d", f, w.Table)
				missing = append(missing, fault{name: name, is: "is missing", rule: w})
			}
		}
	}
	return missing, nil
}

func (u *upkeep) mend(f fault) error {
	if f.need.key == "" {
		return rtnl.Except(u.conn.Do(rtnl.AddRule(f.rule)), fs.ErrExist, unix.EAFNOSUPPORT)
	}
	return u.write(f.need.key, f.need.value)
}

func (u *upkeep) write(key, value string) error {
	if u.SysctlDir == "" {
		return sysctl.Ensure(u.NS, sysctl.Var{Key: key, Value: value})
	}
	return u.NS.Visit(func() error {
		return os.WriteFile(filepath.Join(u.SysctlDir, strings.TrimPrefix(key, "net/")), []byte(value), 0o644)
	})
}

// keepUp puts parameters and rules back that are not as pods need them. What the kernel announces brings it here at once;
// of the others nobody tells, so it comes with every heartbeat too. It fails where something cannot be put back.
func (u *upkeep) keepUp(ctx context.Context) error {
	if u.self == nil || u.layout == nil || ctx.Err() != nil {
		return nil
	}
	u.at = time.Now()
	faults, err := u.faults()
	if err != nil {
		return u.tellNeeds(nil, fmt.Errorf("the kernel's parameters cannot be read: %w", err))
	}
	if len(faults) == 0 {
		return u.tellNeeds(nil, nil)
	}
	fresh := u.fresh
	if !fresh {
		u.st.set(troubleNeeds, errors.New("being put back: "+words(faults)))
	}
	unlock, err := u.NS.Lock(ctx)
	if err != nil {
		return u.tellNeeds(faults, err)
	}
	defer unlock()
	var failed error
	for range 3 { // two writers at once can leave a device as it was
		struck := false
		for _, f := range faults {
			if !fresh && !u.strike(f) {
				continue
			}
			struck = true
			failed = errors.Join(failed, u.tryMend(f))
		}
		if !struck || failed != nil {
			break
		}
		if faults, err = u.faults(); err != nil || len(faults) == 0 {
			failed = err
			break
		}
	}
	return u.tellNeeds(faults, failed)
}

// strike reports whether a thing may be put back now; else it plans the time.
func (u *upkeep) strike(f fault) bool {
	now := time.Now()
	t := u.truces[f.name]
	if t == nil || t.over(now) {
		t = &truce{}
		u.truces[f.name] = t
	}
	if wait := t.next.Sub(now); wait > 0 {
		u.clock.again.Reset(wait)
		return false
	}
	t.strike(now)
	if t.times == atOnce+1 {
		u.log.Warn("another program changes this again and again; the agent waits longer before each try", "what", f.String(), "times", t.times)
	} else if !t.war() {
		u.log.Warn("another program changed this; it is put back", "what", f.String())
	}
	return true
}

func (u *upkeep) tryMend(f fault) error {
	err := u.mend(f)
	if err == nil || errors.Is(err, fs.ErrNotExist) { // the device is gone
		return nil
	}
	if f.need.mild {
		u.refused[f.need.key] = true
		u.log.Warn("this cannot be put right, and pods are served all the same", "what", f.String(), "want", f.need.value, "error", err)
		return nil
	}
	if errors.Is(err, unix.EROFS) {
		return fmt.Errorf("%s, and pods need it to be %s: %w: mount the machine's /proc/sys/net where it can be written and name that place by sysctl-dir, or run 'sysctl -w' on the machine", f, f.need.value, err)
	}
	return fmt.Errorf("%s, and pods need it otherwise: %w", f, err)
}

// tellNeeds puts into the status what is still wrong, and who is at war.
func (u *upkeep) tellNeeds(faults []fault, failed error) error {
	now := time.Now()
	said := failed
	for name, t := range u.truces {
		switch {
		case t.over(now):
			delete(u.truces, name)
		case t.war() && said == nil:
			said = fmt.Errorf("another program changes %s again and again (the agent put it back %d times): find and end that program; the agent waits up to %s before each try",
				name, t.times, longTruce)
		}
	}
	if said == nil && len(faults) > 0 {
		said = errors.New("not as pods need it: " + words(faults))
	}
	u.st.tell(troubleNeeds, said)
	text := ""
	if failed != nil {
		if text = failed.Error(); text != u.told {
			u.log.Error("the kernel's parameters are not as pods need them", "error", failed)
		}
	}
	u.told = text
	return failed
}

func words(faults []fault) string {
	var all []string
	for _, f := range faults {
		all = append(all, f.String())
	}
	return strings.Join(all, "; ")
}

// heed reports whether the parameters that changed are those of a link that pods' packets pass.
func (u *upkeep) heed(e *rtnl.Event) bool {
	switch e.Subject {
	case rtnl.RuleEvent:
		return true
	case rtnl.ConfEvent:
		links := u.heeded.Load()
		return links == nil || (*links)[e.Conf.Link]
	}
	return false
}

// often bounds how often announcements alone make the agent look at parameters.
const often = 20 * time.Millisecond

// heard is keepUp after an announcement.
func (u *upkeep) heard(ctx context.Context) {
	if wait := often - time.Since(u.at); wait > 0 {
		u.clock.again.Reset(wait)
		return
	}
	_ = u.keepUp(ctx) // it is in the status, and the next heartbeat tries again
}

// askTunnels has the loop look at tunnels that differ in what the kernel announces to nobody.
func (u *upkeep) askTunnels() {
	for _, c := range u.nets.each() {
		if err := c.Unheard(); err != nil && u.clock.affordable() {
			what, _, _ := strings.Cut(err.Error(), "\n")
			u.st.noteCause(what, false)
			u.st.hurt(what + ": changed")
			u.due.look = true
		}
	}
}

//go:build linux

package overlay

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"reflect"
	"strconv"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/boot"
	"github.com/cniblocks/cniblocks/internal/base/lazyjson"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/node"
	"github.com/cniblocks/cniblocks/peer"
)

// Stamp is what [Node.Apply] leaves on disk, so that the next process sees without a dump that nothing has changed. It is
// removed before the first write to the kernel and written after the last one. It counts only in the boot and in the
// network namespace that it was written in.
type Stamp struct {
	Boot   string       `json:"boot"`   // boot ID of the kernel
	Cookie uint64       `json:"cookie"` // of the namespace
	Config string       `json:"config"` // digest of the options and the encapsulation
	Peers  string       `json:"peers"`  // identity of the list, by the caller
	Links  []StampLink  `json:"links,omitempty"`
	Routes []StampRoute `json:"routes,omitempty"`
	Ways   []StampWay   `json:"ways,omitempty"`
	MTU    int          `json:"mtu"` // bytes, for pods
}

// StampLink is a device as it was left.
type StampLink struct {
	Index int      `json:"index"`
	MAC   inet.MAC `json:"mac"`
}

// StampRoute is one of our routes over a device. Routes go with the device when it is set down.
type StampRoute struct {
	Dst  netip.Prefix `json:"dst"`
	Link int          `json:"link"`
}

// StampWay is how a peer is reached over a family.
type StampWay struct {
	From netip.Addr `json:"from"` // this node's endpoint, the zero value where it is on none of its links
	To   netip.Addr `json:"to"`
	Link int        `json:"link"`
}

const maxStamp = 1 << 16 // bytes; it names a few links and routes

// Apply brings the kernel in step with the list that load returns, unless the stamp says that this list, known by its
// identity id, was applied with these options and the kernel still shows it: then it neither calls load nor writes. An
// empty id is never trusted. It returns the MTU for pods in bytes.
//
// Processes that call it at once wait for each other, and only the first does the work. Refused peers are reported as by
// Set, and leave no stamp.
func (n *Node) Apply(ctx context.Context, id string, load func() ([]peer.Peer, error)) (mtu int, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s, ok := n.stands(id); ok {
		n.widths.mtu = s.MTU
		return s.MTU, nil
	}
	unlock, err := n.state.lock(ctx)
	if err != nil {
		return 0, err
	}
	defer unlock()
	if s, ok := n.stands(id); ok {
		n.widths.mtu = s.MTU
		return s.MTU, nil
	}
	peers, err := load()
	if err != nil {
		return 0, err
	}
	if peers == nil {
		peers = []peer.Peer{}
	}
	if err := n.state.dropStamp(); err != nil {
		return 0, err
	}
	n.take(peers)
	if err := n.run(ctx); err != nil {
		return n.widths.mtu, err
	}
	return n.widths.mtu, n.writeStamp(id)
}

// Fresh reports whether Apply would find that nothing has changed.
func (n *Node) Fresh(id string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, ok := n.stands(id)
	return ok
}

func (n *Node) stands(id string) (s Stamp, ok bool) {
	if id == "" {
		return s, false
	}
	b, err := node.ReadFile(n.state.path(n.state.stamp), maxStamp)
	if err != nil || lazyjson.Unmarshal(b, &s) != nil || s.Peers != id || s.Config != digest(n.site.o, n.encap) {
		return s, false
	}
	now, err := here(n.site.o.NS)
	if err != nil || now.Boot != s.Boot || now.Cookie != s.Cookie || n.open() != nil {
		return s, false
	}
	return s, n.shows(s)
}

// shows looks at the kernel once: the devices are up and have their MACs, one of our routes over each link stands, and there
// is the same way to one peer over each family.
func (n *Node) shows(s Stamp) bool {
	good := 0
	var msgs []*rtnl.Msg
	for _, want := range s.Links {
		msgs = append(msgs, rtnl.GetLinkIndex(want.Index, func(l rtnl.Link) {
			if l.Up() && l.MAC == want.MAC {
				good++
			}
		}))
	}
	for _, want := range s.Routes {
		msgs = append(msgs, rtnl.MatchRoute(want.Dst.Addr(), func(r rtnl.Route) {
			if r.Proto == Proto && r.Dst == want.Dst && r.Link == want.Link {
				good++
			}
		}))
	}
	for _, want := range s.Ways {
		msgs = append(msgs, rtnl.WayOut(want.From, want.To, func(link int) {
			if link == want.Link {
				good++
			}
		}))
	}
	return len(msgs) == 0 || n.conn.Do(msgs...) == nil && good == len(msgs)
}

// here is the part of a stamp that says where and when.
func here(ns *netns.NS) (s Stamp, err error) {
	if s.Boot, err = boot.ID(); err != nil {
		return s, err
	}
	s.Cookie, err = ns.Cookie()
	return s, err
}

// digest changes with everything that the kernel's state depends on beside the peers.
func digest(of *Options, e Encap) string {
	o := *of
	o.NS, o.StateDir = nil, ""
	b := append([]byte("3 "), e.Name()...)
	b = spell(spell(b, reflect.ValueOf(o)), reflect.ValueOf(e))
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// spell adds all that is in a value, each other value differently. Package fmt takes five times as long where a process has
// just begun.
func spell(b []byte, v reflect.Value) []byte {
	switch v.Kind() {
	case reflect.String:
		b = strconv.AppendQuote(b, v.String())
	case reflect.Bool:
		b = strconv.AppendBool(b, v.Bool())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		b = strconv.AppendInt(b, v.Int(), 10)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		b = strconv.AppendUint(b, v.Uint(), 10)
	case reflect.Slice, reflect.Array:
		b = append(b, '[')
		for i := range v.Len() {
			b = spell(b, v.Index(i))
		}
		b = append(b, ']')
	case reflect.Struct:
		switch a := v.Interface().(type) {
		case netip.Addr:
			b = a.AppendTo(b)
		case netip.Prefix:
			b = a.AppendTo(b)
		default:
			b = append(b, '{')
			for i := range v.NumField() {
				b = spell(b, v.Field(i))
			}
			b = append(b, '}')
		}
	case reflect.Pointer:
		if !v.IsNil() {
			b = spell(b, v.Elem())
		}
	default:
		panic("overlay: an option of kind " + v.Kind().String())
	}
	return append(b, ' ')
}

func (n *Node) writeStamp(id string) error {
	if id == "" {
		return nil
	}
	s, err := here(n.site.o.NS)
	if err != nil {
		return err
	}
	s.Config, s.Peers, s.MTU = digest(n.site.o, n.encap), id, n.widths.mtu
	links, err := n.conn.Links("")
	if err != nil {
		return err
	}
	for _, l := range links {
		if n.site.links.index[l.Name] == l.Index {
			s.Links = append(s.Links, StampLink{l.Index, l.MAC})
		}
	}
	type way struct {
		link int
		v6   bool
	}
	seen := map[way]bool{}
	for _, r := range n.want.Routes.Items {
		if w := (way{r.Link, r.Dst.Addr().Is6()}); !seen[w] && n.site.o.Table == mainTable {
			seen[w] = true
			s.Routes = append(s.Routes, StampRoute{r.Dst, r.Link})
		}
	}
	s.Ways = n.stampWays()
	const enough = 8
	s.Links, s.Routes = s.Links[:min(len(s.Links), enough)], s.Routes[:min(len(s.Routes), enough)]
	b, err := lazyjson.Marshal(s)
	if err != nil {
		return err
	}
	dir, err := node.OpenDir(n.state.root, n.state.network)
	if err != nil {
		return err
	}
	defer dir.Close()
	return node.Replace(dir, n.state.stamp, n.state.stamp+".new", b, 0o644)
}

// stampWays are the ways to the first peer that is reached over each family.
func (n *Node) stampWays() (all []StampWay) {
	var seen [2]bool
	for i := range n.site.members.list {
		for _, to := range n.site.d.ways(&n.site, &n.site.members.list[i]) {
			if !to.IsValid() || seen[b2i(to.Is6())] || n.site.under.to(to).err != nil {
				continue
			}
			seen[b2i(to.Is6())] = true
			w := StampWay{To: to}
			if own := n.site.o.Node.Endpoint(inet.FamilyOf(to)).Addr; n.site.under.isLocal(own) {
				w.From = own
			}
			answered := false
			if n.conn.Do(rtnl.WayOut(w.From, to, func(link int) { w.Link, answered = link, true })) == nil && answered {
				all = append(all, w)
			}
		}
	}
	return all
}

//go:build linux

package agent

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cniblocks/cniblocks/node"
)

// Status is what an agent knows of itself. It holds no secrets. It is large since it is data, and its JSON is what tools read.
type Status struct {
	Network string   `json:"network"`
	Node    string   `json:"node"`
	Ready   bool     `json:"ready"`
	Reasons []string `json:"reasons,omitempty"` // why it is not, or what else is wrong

	Ranges    []netip.Prefix `json:"ranges,omitempty"`
	Former    []netip.Prefix `json:"formerRanges,omitempty"` // that pods here may still have addresses of
	Endpoints []netip.Addr   `json:"endpoints,omitempty"`
	Tunnels   []TunnelStatus `json:"tunnels,omitempty"`
	MTU       int            `json:"mtu,omitempty"` // bytes, for pods

	Peers   int      `json:"peers"`             // in the last list, this node among them
	Routes  int      `json:"routes"`            // of ours in the kernel
	Refused []string `json:"refused,omitempty"` // peers that are left out, and why; the first hundred

	Source   SourceStatus `json:"source"`
	Repairs  Repairs      `json:"repairs"`
	LastSet  float64      `json:"lastSetSeconds"` // how long the last list took
	Error    string       `json:"lastError,omitempty"`
	ErrorAt  *time.Time   `json:"lastErrorAt,omitempty"`
	Started  time.Time    `json:"started"`
	LostRuns int64        `json:"rangesLost"` // how often the ranges were lost

	Withdrawn Withdrawn `json:"withdrawn"`
}

// TunnelStatus is one encapsulation as it stands.
type TunnelStatus struct {
	Encap   string   `json:"encap"`
	Devices []string `json:"devices,omitempty"`
}

// SourceStatus is how the source of peers does.
type SourceStatus struct {
	Name     string     `json:"name,omitempty"`
	Up       bool       `json:"up"`
	Lag      float64    `json:"lagSeconds"` // for how long it has been failing; 0: it is not
	Error    string     `json:"error,omitempty"`
	Lists    int64      `json:"lists"`                // that it has given
	LeftOut  int        `json:"leftOut"`              // entries of it that are unusable
	Why      []string   `json:"leftOutWhy,omitempty"` // the first hundred
	FromDisk bool       `json:"fromDisk"`             // the peers are those of an earlier agent
	Expiry   *time.Time `json:"leaseExpiry,omitempty"`
}

// Repairs are how often the kernel was compared with what it should hold, by what was the reason.
type Repairs struct {
	Event  int64      `json:"event"`  // it announced a change by another's hand
	Lost   int64      `json:"lost"`   // announcements were lost
	Resync int64      `json:"resync"` // it was time, or an error before
	Last   string     `json:"last,omitempty"`
	LastAt *time.Time `json:"lastAt,omitempty"`
}

// Withdrawn is how often readiness ended, for however short a time: who asks now and then does not see that.
type Withdrawn struct {
	Times  int64      `json:"times"`
	Last   string     `json:"last,omitempty"` // why
	LastAt *time.Time `json:"lastAt,omitempty"`
}

// trouble is a kind of thing that can be wrong.
type trouble uint8

const (
	troubleSource   trouble = iota // the store or the file: the last list goes on
	troublePublish                 // others may have an older word of this node
	troubleSelf                    // which peer this node is
	troubleLayout                  // how the network is built
	troubleEndpoint                // which addresses this node has
	troubleRange                   // there is no range for it
	troubleLost                    // its range is another's
	troubleNetwork                 // devices, routes, entries
	troubleFirewall                // SNAT, forwarding
	troubleFiles                   // node file and such
	troubleHarm                    // what another program did, until it is mended
	troubleNeeds                   // parameters of the kernel, routing rules
	troubleChanged                 // how the network is built, since the start
	troubleBlocked                 // the node file still says what was wrong; the last, and told only where nothing else is
	troubles
)

// harmless troubles leave a node ready.
var harmless = map[trouble]bool{troubleSource: true, troublePublish: true, troubleChanged: true}

// counters count since the start.
type counters struct {
	lists, lostEvents, losses, firewalls, errors atomic.Int64
	joins, leaves                                atomic.Int64
	byEvent, byLost, byResync                    atomic.Int64
	sets, setNanos, lastSet                      atomic.Int64
	routes                                       atomic.Int64 // that were counted last
}

// statusKeeper is written by the agent's goroutines and read by those who ask.
type statusKeeper struct {
	counters

	mu        sync.Mutex
	s         Status
	wrong     [troubles]string
	bad       [troubles]time.Time // since when
	isSet     bool
	was       bool // ready
	toldOnce  bool
	needsTold bool // there is a Registrar
	disk      bool
	out       []string
	outByKey  map[string]int // how many entries are left out for a wrong value of that key
	cause     string
	causeLost bool
	beat      time.Time
}

func (k *statusKeeper) set(t trouble, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	said := ""
	if err != nil {
		said = err.Error()
		k.s.Error = said
		now := time.Now()
		k.s.ErrorAt = &now
		k.errors.Add(1)
	}
	if said != "" && k.wrong[t] == "" {
		k.bad[t] = time.Now()
	}
	k.wrong[t] = said
	k.observe()
}

// observe notes an end of readiness, which may be over before anybody asks.
func (k *statusKeeper) observe() {
	ok, _ := k.ready()
	if k.was && !ok {
		w := &k.s.Withdrawn
		now := time.Now()
		w.Times, w.LastAt = w.Times+1, &now
		for t, s := range k.wrong {
			if s != "" && !harmless[trouble(t)] {
				w.Last = s
			}
		}
	}
	k.was = ok
}

// said is what is wrong, "" if nothing is.
func (k *statusKeeper) said(t trouble) (what string) {
	k.with(func() { what = k.wrong[t] })
	return what
}

// obstacle is the first trouble that keeps the node from being ready, in one line. Those that end when the files are written
// are none.
func (k *statusKeeper) obstacle() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	for t, s := range k.wrong {
		if s != "" && !harmless[trouble(t)] && trouble(t) != troubleFiles && trouble(t) != troubleLost && trouble(t) != troubleBlocked {
			line, _, _ := strings.Cut(s, "\n")
			return line
		}
	}
	return ""
}

// tell is set for what nobody needs to hear twice: it reports whether that is another word than the last.
func (k *statusKeeper) tell(t trouble, err error) bool {
	said := ""
	if err != nil {
		said = err.Error()
	}
	if k.said(t) == said {
		return false
	}
	k.set(t, err)
	return true
}

func (k *statusKeeper) sourceSays(err error) {
	k.set(troubleSource, err)
	if err == nil {
		k.fromDisk(false)
	}
}

func (k *statusKeeper) fromDisk(yes bool) { k.with(func() { k.disk = yes }) }
func (k *statusKeeper) published()        { k.with(func() { k.toldOnce = true }) }

func (k *statusKeeper) with(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f()
	k.observe()
}

// complete says that the kernel and the files have been right once.
func (k *statusKeeper) complete() { k.with(func() { k.isSet = true }) }

func (k *statusKeeper) applied(peers int, took time.Duration) {
	if took > 0 {
		k.sets.Add(1)
		k.setNanos.Add(int64(took))
		k.lastSet.Store(int64(took))
	}
	k.with(func() { k.s.Peers = peers })
}

// noteCause remembers what the kernel said, for the repair that follows.
func (k *statusKeeper) noteCause(why string, lost bool) {
	k.with(func() {
		if k.cause == "" {
			k.cause = why
		}
		k.causeLost = k.causeLost || lost
	})
}

// hurt withdraws readiness until healed.
func (k *statusKeeper) hurt(why string) {
	k.with(func() { k.wrong[troubleHarm] = why + " by another program, and is being mended" })
}

// blocks says whether the node file keeps plugins from attaching pods.
func (k *statusKeeper) blocks(yes bool) {
	k.with(func() {
		k.wrong[troubleBlocked] = ""
		if yes {
			k.wrong[troubleBlocked] = "the node file still keeps plugins from attaching pods, and is being written"
		}
	})
}

// healed ends what was heard before the last repair began.
func (k *statusKeeper) healed() {
	k.with(func() {
		if k.cause == "" {
			k.wrong[troubleHarm] = ""
		}
	})
}

func (k *statusKeeper) takeCause(other string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	why, lost := k.cause, k.causeLost
	k.cause, k.causeLost = "", false
	switch {
	case lost:
		k.byLost.Add(1)
	case why != "":
		k.byEvent.Add(1)
	default:
		return other
	}
	return why
}

func (k *statusKeeper) repaired(why string, _ time.Duration) {
	if why == whyResync || why == whyError {
		k.byResync.Add(1)
	}
	now := time.Now()
	k.with(func() { k.s.Repairs.Last, k.s.Repairs.LastAt = why, &now })
}

func (k *statusKeeper) is(f node.File, former []netip.Prefix) {
	k.with(func() {
		k.s.Node, k.s.Ranges, k.s.Former, k.s.MTU = f.Self.Name, slices.Clone(f.Self.Pods), slices.Clone(former), f.MTU
		k.s.Endpoints = found{f.Self.V4.Addr, f.Self.V6.Addr}.list()
	})
}

// ready tells whether all is right, and what is not.
func (k *statusKeeper) ready() (bool, []string) {
	ok := k.isSet
	var why []string
	if !k.isSet {
		why = append(why, "the peers have not been applied yet")
	}
	if k.needsTold && !k.toldOnce && !k.disk {
		ok = false
		why = append(why, "how this node is reached is not published yet")
	}
	for t, s := range k.wrong {
		if s != "" && (ok || trouble(t) != troubleBlocked) {
			why = append(why, s)
			ok = ok && harmless[trouble(t)]
		}
	}
	return ok, why
}

// Status tells how the agent does. It may be called at any time from any goroutine.
func (a *Agent) Status() Status {
	routes := a.countRoutes()
	k := &a.st
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.s
	s.Network, s.Routes, s.LostRuns = a.Network, routes, k.losses.Load()
	if s.Node == "" {
		s.Node = a.Name
	}
	s.Ready, s.Reasons = k.ready()
	s.Tunnels, s.Refused = slices.Clone(k.s.Tunnels), slices.Clone(k.s.Refused)
	s.LastSet = time.Duration(k.lastSet.Load()).Seconds()
	s.Repairs.Event, s.Repairs.Lost, s.Repairs.Resync = k.byEvent.Load(), k.byLost.Load(), k.byResync.Load()
	s.Source = SourceStatus{Name: a.SourceName, Up: k.lists.Load() > 0 && k.wrong[troubleSource] == "", Error: k.wrong[troubleSource],
		Lists: k.lists.Load(), FromDisk: k.disk, Why: slices.Clone(k.out)}
	for _, n := range k.outByKey {
		s.Source.LeftOut += n
	}
	switch {
	case k.wrong[troubleSource] != "":
		s.Source.Lag = time.Since(k.bad[troubleSource]).Seconds()
	case k.lists.Load() == 0 && !k.s.Started.IsZero():
		s.Source.Lag = time.Since(k.s.Started).Seconds()
	}
	if a.Expiry != nil {
		if at := a.Expiry(); !at.IsZero() {
			s.Source.Expiry = &at
		}
	}
	return s
}

//go:build linux

package rtnl

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// Places of queueing disciplines on a link (linux/pkt_sched.h).
const (
	Root    = 0xffffffff // TC_H_ROOT: what the link sends
	Ingress = 0xfffffff1 // TC_H_INGRESS: what it receives

	ingressHandle = 0xffff0000
	ingressBlock  = 0xfffffff2 // the filters of ingress and of clsact alike
	protocolAll   = 3 << 8     // ETH_P_ALL, big-endian
)

const (
	tcKind    = 1 // TCA_KIND
	tcOptions = 2

	tbfParms  = 1 // TCA_TBF_PARMS
	tbfRate64 = 4
	tbfBurst  = 6
	tbfQopt   = 36  // struct tc_tbf_qopt
	etherRate = 1   // TC_LINKLAYER_ETHERNET: no table of rates is needed
	tick      = 64  // nanoseconds, PSCHED_SHIFT
	second    = 1e9 // in nanoseconds

	u32Selector = 5 // TCA_U32_SEL
	u32Actions  = 7

	actKind    = 1 // TCA_ACT_KIND, as TCA_KIND
	actOptions = 2

	mirredParms  = 2 // TCA_MIRRED_PARMS
	mirredRedir  = 1 // TCA_EGRESS_REDIR
	mirredSize   = 28
	actionStolen = 4 // TC_ACT_STOLEN
)

// TBF are the parameters of a token bucket filter (tc-tbf(8)); comparable. It drops packets larger than Burst.
type TBF struct {
	Rate  uint64 // bytes per second
	Burst uint32 // bytes; what the kernel tells has other last digits
	Limit uint32 // bytes in the queue
	Ticks uint32 // how the kernel tells the burst: the time that it takes at the rate, in 64 ns, its lower 32 bits
}

// Fill computes the ticks of a burst.
func (t TBF) Fill() TBF {
	t.Ticks = uint32(uint64(float64(t.Burst) * (second / tick) / float64(max(t.Rate, 1))))
	return t
}

// Qdisc is a queueing discipline; comparable.
type Qdisc struct {
	Link   int
	Parent uint32 // [Root], [Ingress] or that of a class
	Handle uint16 // the major number; 0 is the kernel's default
	Kind   string
	TBF    TBF // of kind "tbf"
}

func tcmsg(link int, handle, parent, info uint32) []byte {
	b := make([]byte, 20)
	native.PutUint32(b[4:], uint32(link))
	native.PutUint32(b[8:], handle)
	native.PutUint32(b[12:], parent)
	native.PutUint32(b[16:], info)
	return b
}

// ReplaceQdisc puts a discipline in its place, in that of another one if there is one, without losing its queue if that is of
// the same kind and handle. An ingress one has neither handle nor parameters.
func ReplaceQdisc(q Qdisc) *Msg {
	return qdisc(unix.NLM_F_CREATE|unix.NLM_F_REPLACE, q)
}

// NewQdisc is [ReplaceQdisc] where there is none but the kernel's default; else it is [io/fs.ErrExist].
func NewQdisc(q Qdisc) *Msg { return qdisc(unix.NLM_F_CREATE|unix.NLM_F_EXCL, q) }

func qdisc(flags uint16, q Qdisc) *Msg {
	handle := uint32(q.Handle) << 16
	if q.Parent == Ingress {
		handle = ingressHandle
	}
	m := newMsg(unix.RTM_NEWQDISC, flags, "set queueing discipline "+q.Kind+" of link "+index(q.Link), tcmsg(q.Link, handle, q.Parent, 0))
	m.str(tcKind, q.Kind)
	if q.Kind == "tbf" {
		m.nest(tcOptions, func() { m.tbf(q.TBF) })
	}
	return m
}

func (m *Msg) tbf(t TBF) {
	b := make([]byte, tbfQopt)
	b[1] = etherRate
	native.PutUint32(b[8:], uint32(min(t.Rate, 1<<32-1)))
	native.PutUint32(b[24:], t.Limit)
	m.bytes(tbfParms, b)
	if t.Rate > 1<<32-1 {
		b = native.AppendUint64(nil, t.Rate)
		m.bytes(tbfRate64, b)
	}
	m.u32(tbfBurst, t.Burst)
}

// DelQdisc removes a discipline with its filters. None there is [io/fs.ErrNotExist] or, as one of another handle is, which
// stays, unix.EINVAL.
func DelQdisc(link int, parent uint32, handle uint16) *Msg {
	h := uint32(handle) << 16
	if parent == Ingress {
		h = ingressHandle
	}
	return newMsg(unix.RTM_DELQDISC, 0, "remove the queueing discipline of link "+index(link), tcmsg(link, h, parent, 0))
}

// GetQdisc asks for the discipline in a place; got is called with it. None is [io/fs.ErrNotExist], unix.EINVAL or, where the
// kernel keeps the place of one that is gone, no error: it then answers nothing, but for the acknowledgement.
func GetQdisc(link int, parent uint32, got func(Qdisc)) *Msg {
	m := newMsg(unix.RTM_GETQDISC, unix.NLM_F_ECHO|unix.NLM_F_ACK, "find the queueing discipline of link "+index(link), tcmsg(link, 0, parent, 0))
	m.reply = func(body []byte) {
		if q, ok := parseQdisc(body); ok {
			got(q)
		}
	}
	return m
}

// Qdiscs lists the disciplines of all links.
func (c *Conn) Qdiscs() ([]Qdisc, error) {
	m := newMsg(unix.RTM_GETQDISC, 0, "list queueing disciplines", tcmsg(0, 0, 0, 0))
	return dump(c, m, func(b []byte) (Qdisc, bool, error) {
		q, ok := parseQdisc(b)
		return q, ok, nil
	})
}

func parseQdisc(b []byte) (q Qdisc, ok bool) {
	if len(b) < 20 {
		return q, false
	}
	q = Qdisc{Link: int(native.Uint32(b[4:])), Handle: uint16(native.Uint32(b[8:]) >> 16), Parent: native.Uint32(b[12:])}
	var options []byte
	for t, v := range attrs(b[20:]) {
		switch t {
		case tcKind:
			q.Kind = cstring(v)
		case tcOptions:
			options = v
		}
	}
	if q.Kind == "tbf" {
		q.TBF = parseTBF(options)
	}
	return q, q.Kind != ""
}

func parseTBF(b []byte) (t TBF) {
	for typ, v := range attrs(b) {
		switch {
		case typ == tbfParms && len(v) >= tbfQopt:
			if t.Rate == 0 {
				t.Rate = uint64(native.Uint32(v[8:]))
			}
			t.Limit, t.Ticks = native.Uint32(v[24:]), native.Uint32(v[28:])
		case typ == tbfRate64 && len(v) >= 8:
			t.Rate = native.Uint64(v)
		}
	}
	t.Burst = uint32(min(float64(t.Ticks)*float64(t.Rate)/(second/tick)+0.5, 1<<32-1))
	return t
}

// Redirect is a filter for all packets that a link receives: they go to another one as if that sent them (tc-mirred(8)).
type Redirect struct {
	Link, To int    // To is 0 where the device is gone
	Handle   uint32 // of the filter; 0 for a new one
	Priority uint16
}

// NewRedirect adds the filter to the link's ingress discipline, as the first. Both must be there.
func NewRedirect(link, to int) *Msg {
	m := filterMsg(unix.RTM_NEWTFILTER, "redirect what link "+index(link)+" receives to link "+index(to), Redirect{Link: link, Priority: 1})
	m.flags = unix.NLM_F_CREATE | unix.NLM_F_EXCL
	m.str(tcKind, "u32")
	m.nest(tcOptions, func() {
		m.bytes(u32Selector, []byte{
			1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // struct tc_u32_sel: terminal, one key
			0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // struct tc_u32_key: whatever the bytes are
		})
		m.nest(u32Actions, func() {
			m.nest(1, func() {
				m.str(actKind, "mirred")
				m.nest(actOptions, func() {
					b := make([]byte, mirredSize)
					native.PutUint32(b[8:], actionStolen)
					native.PutUint32(b[20:], mirredRedir)
					native.PutUint32(b[24:], uint32(to))
					m.bytes(mirredParms, b)
				})
			})
		})
	})
	return m
}

// DelRedirect removes the filter.
func DelRedirect(r Redirect) *Msg {
	return filterMsg(unix.RTM_DELTFILTER, "remove the redirection of what link "+index(r.Link)+" receives", r)
}

func filterMsg(typ uint16, op string, r Redirect) *Msg {
	return newMsg(typ, 0, op, tcmsg(r.Link, r.Handle, ingressBlock, uint32(r.Priority)<<16|protocolAll))
}

// Filters lists what a link's ingress discipline has: the redirections, and how many filters of other kinds there are. A link
// without that discipline has none.
func (c *Conn) Filters(link int) (list []Redirect, others int, err error) {
	m := newMsg(unix.RTM_GETTFILTER, 0, "list the filters of link "+strconv.Itoa(link), tcmsg(link, 0, ingressBlock, 0))
	list, err = dump(c, m, func(b []byte) (Redirect, bool, error) {
		r, redirects, inner := parseFilter(b)
		if inner && !redirects {
			others++
		}
		return r, redirects, nil
	})
	return list, others, err
}

// parseFilter reports whether it is a redirection, and whether it is a filter at all: there are headings of tables too.
func parseFilter(b []byte) (r Redirect, redirects, inner bool) {
	if len(b) < 20 {
		return r, false, false
	}
	r = Redirect{Link: int(native.Uint32(b[4:])), Handle: native.Uint32(b[8:]), Priority: uint16(native.Uint32(b[16:]) >> 16)}
	kind, keys := "", -1
	var options []byte
	for t, v := range attrs(b[20:]) {
		switch t {
		case tcKind:
			kind = cstring(v)
		case tcOptions:
			options = v
		}
	}
	if r.Handle == 0 || kind == "u32" && r.Handle&0xfff == 0 {
		return r, false, false
	}
	for t, v := range attrs(options) {
		switch {
		case t == u32Selector && kind == "u32" && len(v) >= 32 && v[2] == 1:
			keys = int(native.Uint32(v[16:]))
		case t == u32Actions && kind == "u32":
			r.To, redirects = parseMirred(v)
		}
	}
	return r, redirects && keys == 0, true
}

// parseMirred reads the first action.
func parseMirred(b []byte) (to int, redirects bool) {
	for _, action := range attrs(b) {
		kind := ""
		for t, v := range attrs(action) {
			switch t {
			case actKind:
				kind = cstring(v)
			case actOptions:
				for t, v := range attrs(v) {
					if t == mirredParms && len(v) >= mirredSize && kind == "mirred" && native.Uint32(v[20:]) == mirredRedir {
						return int(native.Uint32(v[24:])), true
					}
				}
			}
		}
	}
	return 0, false
}

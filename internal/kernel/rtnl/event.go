//go:build linux

package rtnl

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Subject is what an [Event] is about.
type Subject uint8

// The subjects of events. Lost says that the kernel dropped announcements: anything may have changed.
const (
	Lost Subject = iota
	LinkEvent
	AddrEvent
	RouteEvent
	RuleEvent
	NeighEvent
	FDBEvent
	ConfEvent
)

// Event is one announcement of the kernel. The field of its subject is set.
type Event struct {
	Subject Subject
	Gone    bool   // the object was removed; else it is new or has changed
	Port    uint32 // of the socket that asked for the change (nlmsg_pid); 0 where the kernel does not say, or did it itself

	Link  Link
	Addr  Addr
	Route Route
	Neigh Neigh
	FDB   FDB
	Conf  Conf
}

// String is the event in words.
func (e *Event) String() string {
	did := "changed"
	if e.Gone {
		did = "removed"
	}
	switch e.Subject {
	case LinkEvent:
		return "link " + e.Link.Name + " was " + did
	case AddrEvent:
		return fmt.Sprintf("address %s was %s", e.Addr.Prefix, did)
	case RouteEvent:
		return fmt.Sprintf("%s was %s", e.Route, did)
	case NeighEvent:
		return fmt.Sprintf("%s was %s", e.Neigh, did)
	case FDBEvent:
		return fmt.Sprintf("%s was %s", e.FDB, did)
	case RuleEvent:
		return "a routing rule was " + did
	}
	return "announcements of the kernel were lost"
}

// Conf says that parameters of IPv4 or IPv6 are other ones (netconf): forwarding, rp_filter, proxy_arp, proxy_ndp or
// ignore_routes_with_linkdown of a link. The kernel tells of no others below /proc/sys/net.
type Conf struct {
	Family uint8
	Link   int // [AllLinks] and [DefaultLinks] stand for no link
}

// The names of parameters that are no link's.
const (
	AllLinks     = -1 // NETCONFA_IFINDEX_ALL
	DefaultLinks = -2 // NETCONFA_IFINDEX_DEFAULT
)

// parseEvent reads an announcement. It reports false for one that no subject fits.
func parseEvent(e *Event, typ uint16, port uint32, body []byte) bool {
	*e = Event{Port: port}
	ok := false
	switch typ {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		// In the family of bridges only a port is announced, with a part of its attributes.
		ok = len(body) >= unix.SizeofIfInfomsg && body[0] != unix.AF_BRIDGE
		e.Subject, e.Gone = LinkEvent, typ == unix.RTM_DELLINK
		if ok {
			e.Link = parseLink(body)
		}
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		e.Subject, e.Gone = AddrEvent, typ == unix.RTM_DELADDR
		e.Addr, ok = parseAddr(body)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		e.Subject, e.Gone = RouteEvent, typ == unix.RTM_DELROUTE
		e.Route, ok = parseRoute(body)
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		e.Subject, e.Gone = RuleEvent, typ == unix.RTM_DELRULE
		ok = true
	case unix.RTM_NEWNETCONF:
		e.Subject = ConfEvent
		e.Conf, ok = parseConf(body)
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		e.Gone = typ == unix.RTM_DELNEIGH
		if e.FDB, ok = parseFDB(body); ok {
			e.Subject = FDBEvent
			break
		}
		e.Subject, e.Neigh = NeighEvent, parseNeigh(body)
		ok = e.Neigh.IP.IsValid()
	}
	return ok
}

func parseConf(body []byte) (c Conf, ok bool) {
	if len(body) < netconfLen {
		return c, false
	}
	c.Family = body[0]
	for t, v := range attrs(body[netconfLen:]) {
		if t == netconfIndex {
			c.Link, ok = int(int32(u32of(v))), true
		}
	}
	return c, ok
}

//go:build linux

package nstest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/netns"
)

// Settle waits until what the kernel adds by itself to a namespace whose links came up, link-local addresses and their
// routes, stands: until the kernel has nothing in hand there, see [pending], and the dump has stayed the same for a while.
// Dumps that are compared begin here.
func Settle(t testing.TB, ns *netns.NS) {
	t.Helper()
	const quiet, most = 150 * time.Millisecond, time.Minute
	look := func() (dump, why string) {
		var out strings.Builder
		dumpNetlink(ns, &out)
		return out.String(), pending(ns)
	}
	last, why := look()
	begin := time.Now()
	for since := begin; why != "" || time.Since(since) < quiet; {
		if time.Since(begin) > most {
			t.Fatalf("namespace %s does not settle: %s", ns.Path(), why)
		}
		time.Sleep(10 * time.Millisecond)
		var now string
		if now, why = look(); now != last {
			last, since = now, time.Now()
		}
	}
}

// pending is what the kernel has yet to do in a namespace, if anything. It does these things one after the other for all
// namespaces, and beside someone who makes hundreds of links they may take longer than a dump can be expected to change in:
// to note that a link has a carrier now or has lost it, and to put an IPv6 address, and its route, to use.
func pending(ns *netns.NS) string {
	h, err := handle(ns)
	if err != nil {
		return err.Error()
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return err.Error()
	}
	running := map[int]bool{}
	for _, l := range links {
		a := l.Attrs()
		running[a.Index] = a.RawFlags&unix.IFF_RUNNING != 0
		carrier := a.RawFlags&unix.IFF_LOWER_UP != 0
		if a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_DORMANT == 0 && carrier != running[a.Index] {
			return fmt.Sprintf("%s: carrier %t, operational state %s", a.Name, carrier, a.OperState)
		}
	}
	addrs, err := h.AddrList(nil, netlink.FAMILY_V6)
	if err != nil {
		return err.Error()
	}
	for _, a := range addrs {
		if running[a.LinkIndex] && a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == unix.IFA_F_TENTATIVE {
			return fmt.Sprintf("%s is tentative", a.IPNet)
		}
	}
	return ""
}

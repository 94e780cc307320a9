//go:build linux

package node

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

// Trace is what attachments could leave behind, to be compared: [nstest.Dump] of the network, and the names of all files
// in which plugins and runtimes keep what they know of it.
func (n *Node) Trace(t testing.TB) string {
	t.Helper()
	n.settle(t)
	var names []string
	require.NoError(t, n.Do(func() error {
		for _, dir := range []string{netnsDir, "/run/cniblocks", "/var/lib/cni", "/var/lib/cniblocks"} {
			err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
				if errors.Is(err, fs.ErrNotExist) {
					return nil
				}
				names = append(names, path+"\n")
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	}))
	slices.Sort(names)
	return nstest.Dump(n.Net) + strings.Join(names, "")
}

// settle waits for what the kernel does behind the back of whoever sets a link up or gives it an IPv6 address: it notes
// the carrier, and, in a work queue, installs the address's local route as the last step.
func (n *Node) settle(t testing.TB) {
	t.Helper()
	h := nstest.Netlink(t, n.Net)
	links, err := h.LinkList()
	require.NoError(t, err)
	for _, l := range links {
		_, _ = h.LinkByIndex(l.Attrs().Index) // asking for a link makes the kernel note its carrier; it may be gone
	}
	require.Eventually(t, func() bool {
		addrs, err := h.AddrList(nil, unix.AF_INET6)
		routes, err2 := h.RouteListFiltered(unix.AF_INET6, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
		if err != nil || err2 != nil {
			return false
		}
		local := map[string]bool{}
		for _, r := range routes {
			if r.Type == unix.RTN_LOCAL && r.Dst != nil {
				local[fmt.Sprint(r.LinkIndex, r.Dst.IP)] = true
			}
		}
		return !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return !local[fmt.Sprint(a.LinkIndex, a.IP)] })
	}, 10*time.Second, 5*time.Millisecond)
	lo, err := h.LinkByName("lo")
	require.NoError(t, err)
	require.NoError(t, h.LinkSetUp(lo)) // changes nothing, and waits for the lock that the work queue holds
}

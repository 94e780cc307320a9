//go:build linux

package agent

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/link"
)

// users counts the pods that have addresses of some ranges: by the leases of host-local, which are files named by address;
// where there are none, all interfaces of this network's pods count.
func (c *core) users(ranges []netip.Prefix) (int, error) {
	leases, err := os.ReadDir(filepath.Join(c.LeaseDir, c.Network))
	if errors.Is(err, fs.ErrNotExist) {
		return c.interfaces()
	}
	if err != nil {
		return 0, err
	}
	n := 0
	for _, l := range leases {
		a, err := netip.ParseAddr(l.Name())
		if err == nil && slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(a) }) {
			n++
		}
	}
	return n, nil
}

// interfaces counts the host ends of this network's pods, which bear its mark.
func (c *core) interfaces() (int, error) {
	links, err := c.conn.Links("veth")
	if err != nil {
		return 0, err
	}
	n := 0
	for _, l := range links {
		if strings.HasPrefix(l.Alias, link.AliasPrefix(c.Network)) {
			n++
		}
	}
	return n, nil
}

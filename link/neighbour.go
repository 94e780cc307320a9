//go:build linux

package link

import (
	"context"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/netns"
)

// Neighbour is what the kernel knows of an address on the wire (ip-neighbour(8)); comparable.
type Neighbour struct {
	Addr      netip.Addr
	MAC       inet.MAC // zero where nobody has answered
	Permanent bool     // somebody has set it: it is not asked for
	Ours      bool     // it bears [Proto]
}

// Neighbours lists those of a link, of both families, without the entries that the kernel makes for groups and broadcasts. No
// link of that name is [io/fs.ErrNotExist].
func Neighbours(ctx context.Context, ns *netns.NS, name string) ([]Neighbour, error) {
	c, err := open(ctx, ns)
	if err != nil {
		return nil, err
	}
	l, err := c.LinkByName(name)
	if err != nil {
		return nil, err
	}
	entries, err := c.Neighs(l.Index)
	if err != nil {
		return nil, err
	}
	var list []Neighbour
	for _, n := range entries {
		if n.State&unix.NUD_NOARP == 0 {
			list = append(list, Neighbour{Addr: n.IP, MAC: n.MAC, Permanent: n.State&unix.NUD_PERMANENT != 0, Ours: n.Proto == Proto})
		}
	}
	return list, nil
}

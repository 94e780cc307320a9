//go:build linux

package link

import (
	"context"
	"fmt"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/netns"
)

// Change is something to be done, for [Apply]: what functions of this library such as [Up], addr.Add and route.Add return.
// Values of other types are refused. String says in words what it does, links by their index.
type Change interface{ String() string }

// Apply carries out the changes in their order, by as few system calls as their size allows: one for a pod. One that fails
// does not keep the later ones from being carried out; the errors of all are joined, each with the words of its change.
// One that is malformed fails before anything is done.
func Apply(ctx context.Context, ns *netns.NS, changes ...Change) error {
	msgs := make([]*rtnl.Msg, len(changes))
	for i, ch := range changes {
		switch ch := ch.(type) {
		case *rtnl.Msg:
			msgs[i] = ch
		case malformed:
			return ch.error
		default:
			return fmt.Errorf("%v: a %T is no change of this library", ch, ch)
		}
	}
	c, err := open(ctx, ns)
	if err != nil || len(msgs) == 0 {
		return err
	}
	return c.Do(msgs...)
}

type malformed struct{ error }

func (m malformed) String() string { return m.Error() }

// Malformed is a change that [Apply] refuses with err before it does anything: how a function that makes changes says that
// its arguments are wrong.
func Malformed(err error) Change { return malformed{err} }

// Settings are properties of a link. Zero fields stay as they are.
type Settings struct {
	MAC   inet.MAC // most kinds take one only while they are down; up in the same change comes after it
	MTU   int      // bytes
	Alias string   // at most 255 bytes
	Up    bool
}

// Set changes a link by its index.
func Set(index int, s Settings) Change {
	if err := rtnl.CheckAlias(fmt.Sprintf("link %d", index), s.Alias); err != nil {
		return Malformed(err)
	}
	return rtnl.SetLink(rtnl.Set{Index: index, MAC: s.MAC, MTU: s.MTU, Alias: s.Alias, Up: s.Up})
}

// Up sets a link up by its index.
func Up(index int) Change { return Set(index, Settings{Up: true}) }

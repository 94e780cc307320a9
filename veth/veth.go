//go:build linux

// Package veth makes and removes pairs that span two namespaces: one end on the node, one in the pod (veth(4)).
//
// Both ends are made in their place by one message; nothing is moved between namespaces. The name of the host end
// derives from what CNI repeats in every call, so that it is found again without a state file, and its alias says whose
// it is.
package veth

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/sentinel"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/netns"
)

// End is one end of a pair.
type End struct {
	NS    *netns.NS // needed
	Name  string    // needed
	MAC   inet.MAC  // the zero value is a random one
	MTU   int       // bytes, 68 to 65535; 0 is the kernel's choice
	Index int       // filled in by [Create]
}

// Pair is a veth pair. Host is up from the start, Pod is down until its owner has configured it.
type Pair struct {
	Host, Pod End
	Alias     string // of the host end: whose it is, see package link; may be empty
	Bridge    string // the host end becomes a port of it; may be empty
	Hairpin   bool   // port of the bridge: frames may leave where they came in
	Isolated  bool   // port of the bridge: no frames from and to other isolated ports
}

// Create makes the pair and returns it with the zero fields filled in. A host end that becomes a port gets no
// link-local address. A name that is taken at either end is
// [io/fs.ErrExist]: what was there is left alone. A bridge that is not there is [io/fs.ErrNotExist].
func Create(ctx context.Context, p Pair) (Pair, error) {
	if err := p.check(); err != nil {
		return p, err
	}
	c, err := rtnl.Open(p.Host.NS)
	if err != nil {
		return p, err
	}
	if _, err := c.LinkByName(p.Host.Name); err == nil {
		return p, explain(c, p, fs.ErrExist)
	}
	master := 0
	if p.Bridge != "" {
		b, err := c.LinkByName(p.Bridge)
		if err != nil {
			return p, err
		}
		master = b.Index
	}
	return CreateOn(ctx, p, master)
}

// CreateOn is [Create] for a caller that knows the index of the bridge, 0 for none, and whose host names nobody else
// uses, as those of link.HostName: it writes the alias even if a link of that name was there.
func CreateOn(ctx context.Context, p Pair, master int) (Pair, error) {
	if err := p.check(); err != nil {
		return p, err
	}
	c, err := rtnl.Open(p.Host.NS)
	if err != nil {
		return p, err
	}
	if err := ctx.Err(); err != nil {
		return p, err
	}
	drawn := p.Host.MAC == inet.MAC{}
	if drawn {
		p.Host.MAC = rtnl.RandomMAC()
	}
	if p.Pod.MAC == (inet.MAC{}) { // drawn here, so that nobody has to ask for it
		p.Pod.MAC = rtnl.RandomMAC()
	}
	var made rtnl.Link
	msgs := []*rtnl.Msg{rtnl.NewVeth(rtnl.End{Name: p.Host.Name, MAC: p.Host.MAC, MTU: p.Host.MTU},
		rtnl.End{Name: p.Pod.Name, MAC: p.Pod.MAC, MTU: p.Pod.MTU}, p.Pod.NS.Fd(), master, func(l rtnl.Link) { made = l })}
	if p.Alias != "" {
		// In the same system call: no kill can leave a pair without its owner's name. If the name was taken by an
		// earlier attachment with the same owner, this writes what stands there.
		msgs = append(msgs, rtnl.SetLink(rtnl.Set{Name: p.Host.Name, Alias: p.Alias}))
	}
	if master != 0 {
		// A port's own link-local address reaches nobody, and costs three routes: the kernel walks them all, those of a
		// thousand ports, with every link that changes.
		msgs = append(msgs, rtnl.NoLinkLocal(p.Host.Name))
	}
	// A kernel without IPv6 does not know what it is not to do.
	if err := rtnl.First(rtnl.Except(c.Do(msgs...), unix.EAFNOSUPPORT)); err != nil { // what follows a failed message fails with it
		if made.Index == 0 && drawn { // the kernel may have made it all the same, and its answer was lost
			if l, e := c.LinkByName(p.Host.Name); e == nil && l.MAC == p.Host.MAC {
				made = l
			}
		}
		if made.Index != 0 { // it is only the alias or the answer that failed
			return p, errors.Join(err, rtnl.Except(c.Do(rtnl.DelLinkIndex(made.Index)), fs.ErrNotExist))
		}
		return p, explain(c, p, err)
	}
	if p, err = finish(c, p, made); err != nil {
		return p, errors.Join(err, rtnl.Except(c.Do(rtnl.DelLink(p.Host.Name)), fs.ErrNotExist))
	}
	return p, nil
}

// check refuses what the kernel would take for a pattern, or for a wish to choose a name itself, and what it would refuse
// without saying which end it is about.
func (p *Pair) check() error {
	for _, e := range []*End{&p.Host, &p.Pod} {
		if err := rtnl.CheckName(e.Name); err != nil {
			return err
		}
		if err := e.NS.Check(); err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
		if err := rtnl.CheckMTU(e.Name, e.MTU); err != nil {
			return err
		}
		if e.MAC[0]&1 != 0 {
			return fmt.Errorf("%s: MAC address %s is a group's, which no interface can have", e.Name, e.MAC)
		}
	}
	return rtnl.CheckAlias(p.Host.Name, p.Alias)
}

// defaultMTU is what the kernel gives an end of which nothing is said (ETH_DATA_LEN), whatever the other one has.
const defaultMTU = 1500

func finish(c *rtnl.Conn, p Pair, made rtnl.Link) (_ Pair, err error) {
	if made.Index == 0 { // before Linux 6.2 the kernel does not echo
		if made, err = c.LinkByName(p.Host.Name); err != nil {
			return p, err
		}
	}
	if p.Pod.MTU == 0 {
		p.Pod.MTU = defaultMTU
	}
	p.Host.Index, p.Host.MAC, p.Host.MTU, p.Pod.Index = made.Index, made.MAC, made.MTU, made.Peer
	if p.Hairpin || p.Isolated {
		return p, c.Do(rtnl.SetLink(rtnl.Set{Index: made.Index, Port: []rtnl.PortFlag{
			{Attr: rtnl.Hairpin, On: p.Hairpin}, {Attr: rtnl.Isolated, On: p.Isolated}}}))
	}
	return p, nil
}

// explain finds out which of the two names was taken.
func explain(c *rtnl.Conn, p Pair, err error) error {
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if l, e := c.LinkByName(p.Host.Name); e == nil {
		return sentinel.Errorf(fs.ErrExist, "%s: the node has it already, for %q", p.Host.Name, l.Alias)
	}
	return sentinel.Errorf(fs.ErrExist, "%s: the namespace %s has an interface of this name already", p.Pod.Name, p.Pod.NS.Path())
}

// Delete removes the pair that has an end of this name in ns. When it returns both names are free. None of that name is
// [io/fs.ErrNotExist]; a device of another kind is an error, and stays.
func Delete(ctx context.Context, ns *netns.NS, name string) error {
	return remove(ctx, ns, func(c *rtnl.Conn) (rtnl.Link, error) { return c.LinkByName(name) })
}

// DeleteIndex is [Delete] by the index of one end.
func DeleteIndex(ctx context.Context, ns *netns.NS, index int) error {
	if index <= 0 {
		return fmt.Errorf("delete the interface of index %d: an index is positive", index)
	}
	return remove(ctx, ns, func(c *rtnl.Conn) (rtnl.Link, error) { return c.LinkByIndex(index) })
}

func remove(ctx context.Context, ns *netns.NS, find func(*rtnl.Conn) (rtnl.Link, error)) error {
	c, err := rtnl.Open(ns)
	if err != nil {
		return err
	}
	l, err := find(c)
	if err != nil {
		return err
	}
	if err := isVeth(l); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return c.Do(rtnl.DelLinkIndex(l.Index))
}

func isVeth(l rtnl.Link) error {
	if l.Kind == "veth" {
		return nil
	}
	kind := l.Kind
	if kind == "" {
		kind = "network device"
	}
	return fmt.Errorf("%s is a %s and no end of a veth pair: it is not removed", l.Name, kind)
}

//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/cniblocks/cniblocks/inventory"
	"github.com/cniblocks/cniblocks/netns"
)

const (
	network   = "demo"
	stateDir  = inventory.DefaultStateDir
	bridgeFmt = `{
  "cniVersion": "1.0.0", "cniVersions": ["1.0.0", "1.1.0"], "name": "demo",
  "plugins": [{
    "type": "bridge", "bridge": "demo0", "isDefaultGateway": true, "ipMasq": true,
    "ipam": { "type": "host-local", "dataDir": %q,
              "ranges": [ [{"subnet": "10.88.1.0/24"}], [{"subnet": "fd00:10:88:1::/64"}] ] }
  }]
}
`
)

// bridgePlay is what the acts share.
type bridgePlay struct {
	*stage
	ctx         context.Context
	w           world
	rt          *engine
	leases      string
	blue, green *pod
	empty, idle state // before everything; with the network and no pod
}

func bridgeDemo(ctx context.Context, s *stage) error {
	b := &bridgePlay{stage: s, ctx: ctx, leases: filepath.Join(s.dir, "leases")}
	defer func() { b.w.close() }()
	return first(b.build, b.attach, b.talk, b.look, b.detach, b.cleanUp)
}

func (b *bridgePlay) build() error {
	b.act("A node, two pods and the outside world")
	conflist := fmt.Sprintf(bridgeFmt, b.leases)
	err := first(
		func() error {
			return b.step("the kernel has what it takes", func() (string, error) { return "bridges, veth, nftables, IPv6", needKernel(b.ctx) })
		},
		func() error {
			return b.step("a node, and an outside that knows no way to pods", func() (_ string, err error) {
				b.w, err = newWorld(b.ctx)
				return "uplink " + nodeAddrs[0].Addr().String() + ", " + nodeAddrs[1].Addr().String(), err
			})
		},
		func() error {
			return b.step("two pods, which are namespaces with nothing in them", func() (_ string, err error) {
				if b.blue, err = newPod("blue"); err == nil {
					b.green, err = newPod("green")
				}
				return "blue, green", err
			})
		},
		func() error {
			return b.step("a network, which is one file for the runtime", func() (_ string, err error) {
				b.rt, err = newEngine(b.bin, b.dir, conflist)
				return "demo.conflist", err
			})
		})
	if err != nil {
		return err
	}
	b.retell(conflist)
	b.empty, err = b.observe("uplink")
	return err
}

// retell prints a text without the long name of the temporary directory.
func (b *bridgePlay) retell(text string) { b.quote(strings.ReplaceAll(text, b.leases, "/tmp/leases")) }

// observe takes the state when the kernel has done what it does by itself on these links.
func (b *bridgePlay) observe(links ...string) (state, error) {
	for _, l := range links {
		if err := settle(b.ctx, b.w.node, l); err != nil {
			return nil, err
		}
	}
	return observe(b.w.node, b.leases, stateDir)
}

func (b *bridgePlay) attach() error {
	b.act("The runtime attaches the pods, through libcni and our plugins")
	return first(
		func() error {
			return b.step("STATUS", func() (string, error) { return "ready for pods", b.rt.status(b.ctx) })
		},
		func() error { return b.add(b.blue) },
		func() error { return b.add(b.green) })
}

func (b *bridgePlay) add(p *pod) error {
	return b.step("ADD "+p.name, func() (string, error) { return b.rt.add(b.ctx, p) })
}

func (b *bridgePlay) talk() error {
	b.act("They talk, over IPv4 and IPv6")
	for _, t := range []struct {
		from *pod
		to   []netip.Addr
		what string
	}{
		{b.blue, b.green.addrs, "blue pings green"}, {b.green, b.blue.addrs, "green pings blue"},
		{b.blue, b.blue.gws, "blue pings the node"},
		{b.green, []netip.Addr{outsideAddrs[0].Addr(), outsideAddrs[1].Addr()}, "green pings the outside"},
	} {
		for _, to := range t.to {
			if err := b.step(t.what, func() (string, error) { return reach(b.ctx, t.from.ns, to) }); err != nil {
				return err
			}
		}
	}
	for i, p := range outsideAddrs {
		err := b.step("whom does the outside see when blue calls", func() (string, error) {
			source, err := seen(b.blue.ns, b.w.outside, p.Addr())
			if want := nodeAddrs[i].Addr(); err == nil && source != want {
				err = fmt.Errorf("it sees %s; the packet should have left as %s", source, want)
			}
			return source.String() + ", the node", err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bridgePlay) look() error {
	if err := settle(b.ctx, b.w.node, "demo0"); err != nil { // while it has pods, and with them a carrier
		return err
	}
	b.act("What stands on the node now: cniblocks show")
	picture, err := b.cniblocks(b.ctx, "show", "--data-dir", b.leases)
	b.retell(picture)
	return b.step("each object says whose it is, and CHECK finds all as it should be", func() (string, error) {
		for _, p := range []*pod{b.blue, b.green} {
			for _, a := range p.addrs {
				if err == nil && !strings.Contains(picture, a.String()) {
					err = fmt.Errorf("the picture lacks %s of %s", a, p.name)
				}
			}
			if err == nil {
				err = b.rt.check(b.ctx, p)
			}
		}
		return "", err
	})
}

func (b *bridgePlay) detach() error {
	b.act("The pods end")
	return first(
		func() error { return b.del(b.blue) },
		func() error { return b.del(b.green) },
		func() error {
			return b.step("nothing of a pod is left", func() (_ string, err error) {
				if b.idle, err = b.observe("uplink", "demo0"); err != nil {
					return "", err
				}
				return b.residue()
			})
		},
		func() error {
			return b.step("two more come and go, and the node is the same, object by object", func() (string, error) {
				err := first(b.rounds("blue"), b.rounds("green"))
				if err != nil {
					return "", err
				}
				after, err := b.observe("uplink", "demo0")
				if err != nil {
					return "", err
				}
				return fmt.Sprintf("%d compared", len(after)), compare(b.idle, after)
			})
		})
}

func (b *bridgePlay) del(p *pod) error {
	return b.step("DEL "+p.name, func() (string, error) {
		if err := b.rt.del(b.ctx, p); err != nil {
			return "", err
		}
		return "", p.end()
	})
}

// residue says what stays, all of which is the network's.
func (b *bridgePlay) residue() (string, error) {
	n, err := inventory.Read(b.ctx, inventory.Options{NS: b.w.node, DataDirs: []string{b.leases}, StateDir: stateDir})
	if err != nil {
		return "", err
	}
	if pods := n.Only(network); len(pods.Attachments)+len(pods.Leases) > 0 {
		return "", fmt.Errorf("interfaces %v, leases %v", pods.Attachments, pods.Leases)
	}
	if extra := added(b.empty, b.idle, "link "); extra != 1 {
		return "", fmt.Errorf("%d links instead of the bridge alone:\n%w", extra, compare(b.empty, b.idle))
	}
	return "only the network's bridge, gateway, SNAT rule", nil
}

func (b *bridgePlay) rounds(name string) func() error {
	return func() error {
		p, err := newPod(name)
		if err != nil {
			return err
		}
		if _, err = b.rt.add(b.ctx, p); err != nil {
			return err
		}
		return first(func() error { return b.rt.del(b.ctx, p) }, p.end)
	}
}

func (b *bridgePlay) cleanUp() error {
	b.act("The network leaves the node: cniblocks cleanup --network demo")
	said, err := b.cniblocks(b.ctx, "cleanup", "--network", network, "--data-dir", b.leases)
	b.retell(said)
	return first(
		func() error {
			return b.step("the node is as it was before everything", func() (string, error) {
				if err != nil {
					return "", err
				}
				after, err := b.observe()
				if err != nil {
					return "", err
				}
				return "save for the forwarding of packets, which stays on", compare(b.empty, after)
			})
		},
		func() error { return netns.Remove("outside") })
}

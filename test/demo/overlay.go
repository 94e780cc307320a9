//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/sysctl"
	"github.com/cniblocks/cniblocks/veth"
)

const (
	peersText = `{ "network": ["10.244.0.0/16", "fd00:10:244::/48"],
  "peers": [ { "name": "a", "endpoint": ["192.0.2.11", "2001:db8::11"], "pods": ["10.244.1.0/24", "fd00:10:244:1::/64"] },
             { "name": "b", "endpoint": ["192.0.2.12", "2001:db8::12"], "pods": ["10.244.2.0/24", "fd00:10:244:2::/64"] },
             { "name": "c", "endpoint": ["192.0.2.13", "2001:db8::13"], "pods": ["10.244.3.0/24", "fd00:10:244:3::/64"] } ] }
`
	overlayFmt = `{ "cniVersion": "1.0.0", "cniVersions": ["1.0.0", "1.1.0"], "name": "pods", "plugins": [ {
    "type": "overlay", "encap": "vxlan", "peersFile": %q, "stateDir": %q,
    "delegate": { "type": "bridge", "bridge": "cni0", "isDefaultGateway": true,
                  "ipam": { "type": "host-local", "dataDir": %q } } } ] }
`
)

// machine is a node of the overlay, in a namespace of its own.
type machine struct {
	name string
	ns   *netns.NS
	dir  string
	rt   *engine
	pods []*pod
}

// overlayPlay is what the acts share.
type overlayPlay struct {
	*stage
	ctx      context.Context
	machines []*machine
	empty    state // of the first machine, before everything
}

func overlayDemo(ctx context.Context, s *stage) error {
	o := &overlayPlay{stage: s, ctx: ctx}
	defer func() {
		for _, m := range o.machines {
			m.ns.Close()
		}
	}()
	return first(o.build, o.attach, o.talk, o.look, o.takeAway)
}

func (o *overlayPlay) build() error {
	o.act("Three machines on one link, and the same two files on each")
	err := first(
		func() error {
			return o.step("the kernel has what it takes", func() (string, error) { return "bridges, veth, nftables, IPv6", needKernel(o.ctx) })
		},
		func() error {
			return o.step("three machines, which are namespaces", func() (string, error) { return "a, b, c", o.wire() })
		},
		func() error {
			return o.step("the peers file and the conflist", func() (string, error) { return "peers.json, demo.conflist", o.files() })
		})
	if err != nil {
		return err
	}
	o.quote(peersText)
	o.quote(fmt.Sprintf(overlayFmt, "/etc/cniblocks/peers.json", "/run/cniblocks", "/tmp/leases"))
	o.empty, err = o.observe(o.machines[0])
	return err
}

// wire joins the machines by a bridge in this namespace, which plays the network between them.
func (o *overlayPlay) wire() error {
	here, err := netns.Current()
	if err != nil {
		return err
	}
	defer here.Close()
	wire, err := bridge.Ensure(o.ctx, here, bridge.Bridge{Name: "wire"})
	if err != nil {
		return err
	}
	for i, name := range []string{"a", "b", "c"} {
		ns, err := netns.Create(name)
		if err != nil {
			return err
		}
		o.machines = append(o.machines, &machine{name: name, ns: ns, dir: filepath.Join(o.dir, name)})
		pair, err := veth.CreateOn(o.ctx, veth.Pair{Host: veth.End{NS: here, Name: name}, Pod: veth.End{NS: ns, Name: "uplink"}}, wire.Index)
		if err != nil {
			return err
		}
		endpoints := prefixes(fmt.Sprintf("192.0.2.%d/24", 11+i), fmt.Sprintf("2001:db8::%d/64", 11+i))
		err = first(
			func() error {
				return sysctl.Ensure(ns, sysctl.Var{Key: "net/ipv6/conf/uplink/accept_dad", Value: "0"})
			},
			func() error { return addAll(o.ctx, pair.Pod, endpoints) },
			func() error { return up(ns, "lo") },
			func() error { return up(ns, pair.Pod.Name) },
			func() error { return carrier(here, name) },
			func() error { return carrier(ns, "uplink") })
		if err != nil {
			return err
		}
	}
	return nil
}

func (o *overlayPlay) files() error {
	peers := filepath.Join(o.dir, "peers.json")
	if err := os.WriteFile(peers, []byte(peersText), 0o644); err != nil {
		return err
	}
	for _, m := range o.machines {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		var err error
		conflist := fmt.Sprintf(overlayFmt, peers, m.state(), m.leases())
		if m.rt, err = newEngine(o.bin, m.dir, conflist); err != nil {
			return err
		}
	}
	return nil
}

func (m *machine) state() string  { return filepath.Join(m.dir, "run") }
func (m *machine) leases() string { return filepath.Join(m.dir, "leases") }

func (o *overlayPlay) observe(m *machine) (state, error) {
	if err := settle(o.ctx, m.ns, "uplink"); err != nil {
		return nil, err
	}
	return observe(m.ns, m.leases(), m.state())
}

func (o *overlayPlay) attach() error {
	o.act("A runtime on each machine attaches two pods; the first ADD brings up the tunnels")
	for _, m := range o.machines {
		for _, n := range []string{"1", "2"} {
			p, err := newPod(m.name + n)
			if err != nil {
				return err
			}
			m.pods = append(m.pods, p)
			err = o.step("ADD "+p.name+" on machine "+m.name, func() (said string, err error) {
				err = m.ns.Do(func() error { said, err = m.rt.add(o.ctx, p); return err })
				return said, err
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (o *overlayPlay) talk() error {
	o.act("Every pod reaches every other one, over IPv4 and IPv6")
	for _, m := range o.machines {
		for _, from := range m.pods {
			err := o.step(from.name+" pings the pods of all machines", func() (string, error) {
				answers := 0
				var slowest time.Duration
				var whose string
				for _, other := range o.machines {
					for _, to := range other.pods {
						for _, a := range to.addrs {
							began := time.Now()
							if _, err := reach(o.ctx, from.ns, a); err != nil {
								return "", fmt.Errorf("%s at %s: %w", to.name, a, err)
							}
							answers++
							if took := time.Since(began); took > slowest {
								slowest, whose = took, to.name+" "+a.String()
							}
						}
					}
				}
				return fmt.Sprintf("%d answers, the slowest from %s", answers, whose), nil
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (o *overlayPlay) look() error {
	m := o.machines[0]
	o.act("What stands on machine a now: cniblocks show")
	picture, err := o.cniblocks(o.ctx, "show", "--netns", m.ns.Path(), "--data-dir", m.leases())
	o.quote(strings.ReplaceAll(picture, o.dir, "/tmp"))
	return o.step("the tunnel and the ways to b and c are in the picture, and CHECK finds all as it should be", func() (string, error) {
		for _, want := range []string{"cb-vxlan", "10.244.2.0/24", "10.244.3.0/24", "fd00:10:244:3::/64"} {
			if err == nil && !strings.Contains(picture, want) {
				err = fmt.Errorf("the picture lacks %s", want)
			}
		}
		for _, m := range o.machines {
			for _, p := range m.pods {
				if err == nil {
					err = m.ns.Do(func() error { return m.rt.check(o.ctx, p) })
				}
			}
		}
		return "", err
	})
}

func (o *overlayPlay) takeAway() error {
	o.act("The pods end, and the overlay is taken down")
	for _, m := range o.machines {
		err := o.step("DEL the pods of machine "+m.name, func() (string, error) {
			for _, p := range m.pods {
				if err := m.ns.Do(func() error { return m.rt.del(o.ctx, p) }); err != nil {
					return "", err
				}
				if err := p.end(); err != nil {
					return "", err
				}
			}
			return "", nil
		})
		if err != nil {
			return err
		}
	}
	return first(
		func() error {
			return o.step("cniblocks overlay down", func() (string, error) {
				for _, m := range o.machines {
					if _, err := o.cniblocks(o.ctx, "overlay", "down", "--netns", m.ns.Path(), "--conf", filepath.Join(m.dir, "demo.conflist")); err != nil {
						return "", err
					}
				}
				return "on each machine", nil
			})
		},
		func() error {
			return o.step("cniblocks cleanup --network pods", func() (string, error) {
				m := o.machines[0]
				if _, err := o.cniblocks(o.ctx, "cleanup", "--network", "pods", "--netns", m.ns.Path(), "--data-dir", m.leases()); err != nil {
					return "", err
				}
				after, err := o.observe(m)
				if err != nil {
					return "", err
				}
				return "machine a is as it was before everything, save for forwarding", compare(o.empty, after)
			})
		},
		func() error {
			for _, m := range o.machines {
				if err := netns.Remove(m.name); err != nil {
					return err
				}
			}
			return nil
		})
}

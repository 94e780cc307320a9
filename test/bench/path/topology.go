//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"

	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/overlay"
	"github.com/cniblocks/cniblocks/test/bench/internal/report"
	"github.com/cniblocks/cniblocks/test/bench/internal/scratch"
)

// lane is a path between two ends that can be measured.
type lane struct {
	name     string
	from, to end
	close    func()
}

// Lanes that every other is compared to, and the bound.
const (
	refBridge = "reference bridge"
	bareVeth  = "bare veth pair"
)

// builder makes lanes; pods are its own.
type builder struct {
	ours, ref string
	pods      scratch.Pods
	used      int
}

func (b *builder) pod() (*scratch.Pod, error) {
	pods, err := b.pods.Get(b.used, 1)
	if err != nil {
		return nil, err
	}
	b.used++
	return pods[0], nil
}

// veth joins two pods directly: no plugin can be faster.
func (b *builder) veth() (*lane, error) {
	one, err := netns.New()
	if err != nil {
		return nil, err
	}
	two, err := netns.New()
	if err != nil {
		one.Close()
		return nil, err
	}
	l := &lane{name: bareVeth, close: func() { one.Close(); two.Close() }}
	prefixes := []netip.Prefix{netip.MustParsePrefix("10.99.0.1/24"), netip.MustParsePrefix("10.99.0.2/24")}
	err = one.Do(func() error { return scratch.AddVeth("eth0", "eth0", two) })
	for i, ns := range []*netns.NS{one, two} {
		err = errors.Join(err, ns.Do(func() error { return errors.Join(scratch.Up("lo"), scratch.Up("eth0", prefixes[i])) }))
	}
	l.from, l.to = end{one, prefixes[0].Addr()}, end{two, prefixes[1].Addr()}
	return l, err
}

// bridge attaches two pods to the bridge of one node, where the netfilter hooks of IP see bridged frames or do not.
func (b *builder) bridge(name, bin string, netfilter bool) (*lane, error) {
	w, err := scratch.NewWorld()
	if err != nil {
		return nil, err
	}
	l := &lane{name: name, close: func() { w.Close() }}
	if err := w.Node.Do(func() error { return bridgeNetfilter(netfilter) }); err != nil {
		l.close()
		return nil, err
	}
	conf := scratch.Network{Subnets: []string{"10.99.0.0/24"}}.Conf(filepath.Join(w.Dir, "networks"), nil)
	if l.from, err = b.attach(w, bin, "bridge", conf); err == nil {
		l.to, err = b.attach(w, bin, "bridge", conf)
	}
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// bridgeNetfilter switches the hooks in the namespace of the calling thread; a kernel without br_netfilter has none.
func bridgeNetfilter(on bool) error {
	for _, of := range []string{"iptables", "ip6tables", "arptables"} {
		value := "0"
		if on {
			value = "1"
		}
		if err := scratch.Sysctl("net.bridge.bridge-nf-call-"+of, value); err != nil && (on || !errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	return nil
}

// attach gives a pod of its own to a node, and returns it as an end.
func (b *builder) attach(w *scratch.World, bin, plugin string, conf []byte) (end, error) {
	p, err := b.pod()
	if err != nil {
		return end{}, err
	}
	out, cost, err := w.Exec(p.Call(bin, plugin, "ADD", conf))
	cost.Settle()
	if err != nil {
		return end{}, err
	}
	at, err := scratch.ParseResult(w, p, "", "cb0", out)
	if err != nil {
		return end{}, err
	}
	if _, err := at.Works(false); err != nil {
		return end{}, err
	}
	ns, err := p.NS()
	return end{ns, at.IPs[0].Address.Addr()}, err
}

// podRanges are those of the two nodes of a path.
var podRanges = []netip.Prefix{netip.MustParsePrefix("10.99.1.0/24"), netip.MustParsePrefix("10.99.2.0/24")}

// nodes makes two nodes that are joined by a link.
func nodes() (both []*scratch.World, closeAll func(), err error) {
	one, err := scratch.NewWorld()
	if err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp(scratch.Dir(), "node-")
	if err != nil {
		one.Close()
		return nil, nil, err
	}
	two := &scratch.World{Node: one.Outside, Outside: one.Node, Dir: dir}
	return []*scratch.World{one, two}, func() { one.Close(); os.RemoveAll(dir) }, nil
}

// across attaches a pod on each of two nodes, with a configuration for each, and makes the routes between them if the
// plugin does not.
func (b *builder) across(name, bin string, net func(node int, w *scratch.World) (scratch.Network, error), routes bool) (*lane, error) {
	both, closeNodes, err := nodes()
	if err != nil {
		return nil, err
	}
	var ends []end
	for i, w := range both {
		n, err := net(i, w)
		if err != nil {
			closeNodes()
			return nil, err
		}
		e, err := b.attach(w, bin, n.Plugin(), n.Conf(filepath.Join(w.Dir, "networks"), nil))
		if err != nil {
			closeNodes()
			return nil, err
		}
		ends = append(ends, e)
	}
	if routes {
		if err := routeBoth(both); err != nil {
			closeNodes()
			return nil, err
		}
	}
	return &lane{name: name, from: ends[0], to: ends[1], close: closeNodes}, nil
}

// routeBoth gives each node the route to the pods of the other.
func routeBoth(both []*scratch.World) error {
	gateways := []netip.Addr{scratch.OutsideAddrs[0].Addr(), scratch.NodeAddrs[0].Addr()}
	for i, w := range both {
		pods := podRanges[1-i]
		err := w.Node.Do(func() error {
			return netlink.RouteAdd(&netlink.Route{
				Dst: &net.IPNet{IP: pods.Addr().AsSlice(), Mask: net.CIDRMask(pods.Bits(), 32)}, Gw: gateways[i].AsSlice(),
			})
		})
		if err != nil {
			return fmt.Errorf("route to %s: %w", pods, err)
		}
	}
	return nil
}

// routed is the reference bridge on two nodes, with routes that were made by hand.
func (b *builder) routed() (*lane, error) {
	return b.across(refBridge+" and routes", b.ref, func(node int, _ *scratch.World) (scratch.Network, error) {
		return scratch.Network{Subnets: []string{podRanges[node].String()}}, nil
	}, true)
}

var nodeNames = []string{"one", "two"}

// overlay is our plugin of that type on two nodes, with further keys such as the encapsulation.
func (b *builder) overlay(name, plugin string, keys map[string]any) (*lane, error) {
	lib, err := os.MkdirTemp(scratch.Dir(), "lib-")
	if err != nil {
		return nil, err
	}
	peers, err := peersFile(lib)
	if err != nil {
		return nil, err
	}
	return b.across(name, b.ours, func(node int, w *scratch.World) (scratch.Network, error) {
		file := filepath.Join(w.Dir, "peers.json")
		n := scratch.Network{Type: plugin, Subnets: []string{podRanges[node].String()}, Keys: map[string]any{
			"peersFile": file, "node": nodeNames[node], "stateDir": filepath.Join(w.Dir, "state"),
			"dataDir": filepath.Join(lib, nodeNames[node]),
		}}
		for k, v := range keys {
			n.Keys[k] = v
		}
		return n, os.WriteFile(file, peers, 0o644)
	}, false)
}

// peersFile has both nodes, with keys for WireGuard, which are made below that directory.
func peersFile(lib string) ([]byte, error) {
	var peers []map[string]any
	for i, endpoint := range []netip.Addr{scratch.NodeAddrs[0].Addr(), scratch.OutsideAddrs[0].Addr()} {
		key, err := overlay.WireGuard{KeyDir: filepath.Join(lib, nodeNames[i])}.PublicKey(scratch.NetworkName)
		if err != nil {
			return nil, err
		}
		peers = append(peers, map[string]any{"name": nodeNames[i], "endpoint": []string{endpoint.String()},
			"pods": []string{podRanges[i].String()}, "publicKey": key.String()})
	}
	return json.Marshal(map[string]any{"network": []string{"10.99.0.0/16"}, "peers": peers})
}

// oneNode and twoNodes are the lanes of the two scenarios, the first of which is what others are compared to. A lane that
// cannot be made is left out, and the error says why.
func (b *builder) oneNode() ([]*lane, []error) {
	return build(
		func() (*lane, error) { return b.bridge(refBridge, b.ref, false) },
		func() (*lane, error) { return b.bridge("bridge, "+report.Ours, b.ours, false) },
		func() (*lane, error) { return b.bridge("bridge, "+report.Ours+", bridge-nf-call on", b.ours, true) },
		b.veth,
	)
}

func (b *builder) twoNodes() ([]*lane, []error) {
	makers := []func() (*lane, error){
		b.routed,
		func() (*lane, error) { return b.overlay("host-gw", "host-gw", nil) },
	}
	for _, encap := range overlay.Names() {
		if encap == (overlay.Direct{}).Name() {
			continue
		}
		makers = append(makers, func() (*lane, error) {
			return b.overlay(encap, "overlay", map[string]any{"encap": encap})
		})
	}
	return build(makers...)
}

func build(makers ...func() (*lane, error)) (lanes []*lane, errs []error) {
	for _, make := range makers {
		l, err := make()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		lanes = append(lanes, l)
	}
	return lanes, errs
}

//go:build linux

package main

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/test/bench/internal/report"
	"github.com/cniblocks/cniblocks/test/bench/internal/scratch"
	"github.com/cniblocks/cniblocks/test/bench/internal/stats"
)

// present is the number of pods whose SNAT new connections have to pass.
const present = 10_000

// oneRule is the arm of the node that masquerades everything.
const oneRule = "one rule, no pods"

// connections measures what the SNAT of many pods adds to the first packet of a connection, against a node that tracks
// connections and has an empty NAT chain. Of the pods one is real. Of the others there is what SNAT needs: leases, and
// for the reference its chains, put there by one iptables-restore instead of 10 000 ADDs.
func connections(r *run) error {
	arms, err := r.sides(scratch.Network{IPMasq: true})
	if err != nil {
		return err
	}
	defer func() { closeAll(arms) }()
	for _, name := range []string{oneRule, "without SNAT"} {
		a, err := r.arm(name, r.Ours, scratch.Network{})
		if err != nil {
			return err
		}
		arms = append(arms, a)
	}

	var clients []*client
	for i, a := range arms {
		if err := prepareSNAT(a); err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
		pods, err := r.pods.Get(i, 1)
		if err != nil {
			return err
		}
		at, err := r.add(a, pods[0])
		if err != nil {
			return err
		}
		defer a.detach(at)
		c, err := newClient(a.world, pods[0])
		if err != nil {
			return err
		}
		defer c.close()
		clients = append(clients, c)
	}
	return r.connect(arms, clients)
}

// connect lets the arms take turns and records the time of a connection and its difference to the last arm's, which has no
// SNAT.
func (r *run) connect(arms []*arm, clients []*client) error {
	times := make([]stats.Sample, len(arms))
	for i := range 1 + r.rounds(40, 10)/2 {
		for _, k := range stats.Order(len(arms)) {
			took, err := clients[k].connections(500)
			if err != nil {
				return fmt.Errorf("%s: %w", arms[k].name, err)
			}
			if i > 0 { // the first is to warm up
				times[k] = append(times[k], float64(took.Nanoseconds())/1000)
			}
		}
	}
	for k, a := range arms {
		for i, v := range times[k] {
			r.rec.Add("connections", "first packet of a connection to the outside", a.name, "µs", report.Measure{Value: v})
			if last := len(arms) - 1; k < last {
				r.rec.Add("connections", extraTime, a.name, "µs", report.Measure{Value: v - times[last][i]})
			}
		}
	}
	return nil
}

// prepareSNAT fills the arm's node with what belongs to the other pods.
func prepareSNAT(a *arm) error {
	switch a.name {
	case report.Ours:
		return fillLeases(a.leases(), present)
	case report.Reference:
		return fillChains(a.world.Node)
	}
	c, err := nftables.New(nftables.WithNetNSFd(a.world.Node.Fd()))
	if err != nil {
		return err
	}
	chain := c.AddChain(&nftables.Chain{
		Name: "chain", Table: c.AddTable(&nftables.Table{Name: "bench", Family: nftables.TableFamilyINet}),
		Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	if a.name == oneRule {
		c.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: []expr.Any{&expr.Masq{FullyRandom: true}}})
	}
	return c.Flush()
}

// fillChains puts the reference's chains of many pods into a node: one for each, with its jump in POSTROUTING.
func fillChains(node *netns.NS) error {
	var chains, rules bytes.Buffer
	ip := netip.MustParsePrefix("10.88.64.0/16").Addr()
	for i := range present {
		ip = ip.Next()
		id := fmt.Sprintf("%064x", i)
		name := fmt.Sprintf("CNI-%x", sha512.Sum512([]byte(scratch.NetworkName+id)))[:28]
		comment := fmt.Sprintf(`-m comment --comment "name: \"%s\" id: \"%s\""`, scratch.NetworkName, id)
		fmt.Fprintf(&chains, ":%s - [0:0]\n", name)
		fmt.Fprintf(&rules, "-A %s -d %s %s -j ACCEPT\n", name, subnet4, comment)
		fmt.Fprintf(&rules, "-A %s ! -d 224.0.0.0/4 %s -j MASQUERADE\n", name, comment)
		fmt.Fprintf(&rules, "-A POSTROUTING -s %s/32 %s -j %s\n", ip, comment, name)
	}
	return node.Do(func() error {
		cmd := exec.Command("iptables-restore", "--noflush")
		cmd.Stdin = bytes.NewBufferString("*nat\n" + chains.String() + rules.String() + "COMMIT\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, out)
		}
		return nil
	})
}

// client sends first packets from a pod to the outside. Both ends are served by one thread: the kernel delivers a packet
// before send returns, so nothing has to be woken up.
type client struct {
	pod     *netns.NS
	outside int
	port    uint16 // of the next connection
}

const outsidePort = 9

func newClient(w *scratch.World, p *scratch.Pod) (*client, error) {
	for _, name := range []string{"all", "eth0"} { // without SNAT it has no route to the sender
		if err := w.Outside.Do(func() error { return scratch.Sysctl("net.ipv4.conf."+name+".rp_filter", "0") }); err != nil {
			return nil, err
		}
	}
	ns, err := p.NS()
	if err != nil {
		return nil, err
	}
	fd, err := w.Outside.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return nil, err
	}
	c := &client{pod: ns, outside: fd, port: 1024}
	tv := unix.NsecToTimeval(int64(time.Second))
	if err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: scratch.OutsideAddrs[0].Addr().As4(), Port: outsidePort})
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *client) close() { unix.Close(c.outside) }

// connections opens n of them, each from a port that was not used before, and returns the mean time from sending the first
// packet to its receipt.
func (c *client) connections(n int) (time.Duration, error) {
	fds := make([]int, 0, n)
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for range n {
		fd, err := c.pod.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return 0, err
		}
		fds = append(fds, fd)
		c.port++
		if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(c.port)}); err != nil {
			return 0, err
		}
		if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: scratch.OutsideAddrs[0].Addr().As4(), Port: outsidePort}); err != nil {
			return 0, err
		}
	}
	var payload, got [4]byte
	start := time.Now()
	for i, fd := range fds {
		binary.NativeEndian.PutUint32(payload[:], uint32(i))
		if _, err := unix.Write(fd, payload[:]); err != nil {
			return 0, fmt.Errorf("send: %w", err)
		}
		if _, err := unix.Read(c.outside, got[:]); err != nil {
			return 0, fmt.Errorf("receive: %w", err)
		}
		if got != payload {
			return 0, fmt.Errorf("packet %d was lost", i)
		}
	}
	return time.Since(start) / time.Duration(n), nil
}

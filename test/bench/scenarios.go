//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/cniblocks/cniblocks/test/bench/internal/report"
	"github.com/cniblocks/cniblocks/test/bench/internal/scratch"
)

type scenario struct {
	name, what string
	run        func(*run) error
}

// scenarios in the order of the table. Those whose name is also that of rows are looked up by the goals.
var scenarios = []scenario{
	{"startup", "time to VERSION, size of the executable", startup},
	{"plain", "ADD and DEL of one pod, IPv4, no SNAT", attachment("plain", scratch.Network{})},
	{"snat", "with SNAT, every side by its default backend", attachment("snat", scratch.Network{IPMasq: true})},
	{"snat-nftables", "with SNAT by nftables", attachment("snat-nftables", scratch.Network{IPMasq: true, Backend: "nftables"})},
	{"snat-iptables", "with SNAT by iptables", attachment("snat-iptables", scratch.Network{IPMasq: true, Backend: "iptables"})},
	{"dual-stack", "IPv4 and IPv6 against IPv4 alone, time to the first IPv6 ping", dualStack},
	{"check", "CHECK of an attachment", check},
	{"leases", "ADD and DEL beside the leases of other pods", leases},
	{"last-address", "the last free address of a /16", lastAddress},
	{"burst", "200 pods, 32 at a time", burst},
	{"pods", "ADD and DEL with SNAT beside other pods", manyPods},
	{"connections", "new connections through the SNAT of 10 000 pods", connections},
	{"gc", "GC with as many live as stale attachments", garbage},
	{overlay, "ADD through overlay and host-gw against bridge alone", overlays},
}

// attachment is the scenario of ADD and DEL on both sides.
func attachment(name string, net scratch.Network) func(*run) error {
	return func(r *run) error {
		arms, err := r.sides(net)
		if err != nil {
			return err
		}
		defer closeAll(arms)
		rounds := r.rounds(200, 30)
		if net.IPMasq {
			rounds = r.rounds(60, 12)
		}
		return r.interleave(name, rounds, arms, r.attach)
	}
}

func startup(r *run) error {
	arms, err := r.sides(scratch.Network{})
	if err != nil {
		return err
	}
	defer func() { closeAll(arms) }()
	for _, a := range arms {
		info, err := os.Stat(filepath.Join(a.bin, "bridge"))
		if err != nil {
			return err
		}
		r.rec.Add("startup", "size of bridge", a.name, "MB", report.Measure{Value: float64(info.Size()) / 1e6})
	}
	bin, err := nothing()
	if err != nil {
		return err
	}
	idle, err := r.arm(nothingInGo, bin, scratch.Network{})
	if err != nil {
		return err
	}
	arms = append(arms, idle)
	conf := []byte(`{"cniVersion":"1.0.0"}`)
	return r.interleave("startup", r.rounds(300, 60), arms, func(a *arm, x executor) error {
		return x.exec("VERSION", scratch.Call{Bin: a.bin, Type: "bridge", Verb: "VERSION", Conf: conf}, ignore)
	})
}

// nothingInGo is the arm of a program that does nothing: what every one in Go takes.
const nothingInGo = "a Go program that does nothing"

// nothing makes a directory of plugins with that program.
func nothing() (bin string, err error) {
	bin = filepath.Join(scratch.Dir(), "nothing")
	source := filepath.Join(bin, "main.go")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o644); err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(bin, "bridge"), source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build a program that does nothing: %w: %s", err, out)
	}
	return bin, nil
}

// dualStack compares our dual stack with our IPv4 alone, and with the reference's dual stack.
func dualStack(r *run) error {
	both := []string{subnet4, subnet6}
	var arms []*arm
	defer func() { closeAll(arms) }()
	for _, a := range []struct {
		name, bin string
		subnets   []string
	}{
		{report.Ours, r.Ours, both}, {report.Reference, r.Ref, both}, {"ours, IPv4 only", r.Ours, both[:1]},
	} {
		arm, err := r.arm(a.name, a.bin, scratch.Network{Subnets: a.subnets})
		if err != nil {
			return err
		}
		arms = append(arms, arm)
	}
	return r.interleave("dual-stack", r.rounds(60, 12), arms, func(a *arm, x executor) error {
		return r.firstPing(a, x)
	})
}

// firstPing is a round that also measures the time from the end of ADD to the first reply over IPv6.
func (r *run) firstPing(a *arm, x executor) error {
	var at *scratch.Attachment
	err := x.exec("ADD", a.call(a.pod, "ADD", a.conf(nil)), func(out []byte) (err error) {
		ended := time.Now()
		if at, err = a.parse(a.pod, out); err != nil {
			return err
		}
		for _, ip := range at.IPs {
			if ip.Gateway.Is4() {
				continue
			}
			if _, _, err := a.pod.Ping(ip.Gateway, 20*time.Second); err != nil {
				return err
			}
			x.took("first IPv6 ping after ADD", time.Since(ended))
		}
		_, err = at.Works(false)
		return err
	})
	if err != nil {
		return err
	}
	return x.exec("DEL", a.del(at), func([]byte) error { return at.Gone() })
}

func check(r *run) error {
	for _, c := range []struct {
		name string
		net  scratch.Network
	}{{"check", scratch.Network{}}, {"check snat", scratch.Network{IPMasq: true}}} {
		if err := r.checkOf(c.name, c.net); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) checkOf(name string, net scratch.Network) error {
	arms, err := r.sides(net)
	if err != nil {
		return err
	}
	defer closeAll(arms)
	calls := map[*arm]scratch.Call{}
	for i, a := range arms {
		pods, err := r.pods.Get(i, 1)
		if err != nil {
			return err
		}
		a.pod = pods[0]
		at, err := r.add(a, a.pod)
		if err != nil {
			return err
		}
		c := a.del(at)
		c.Verb = "CHECK"
		calls[a] = c
		defer a.detach(at)
	}
	return r.interleave(name, r.rounds(100, 20), arms, func(a *arm, x executor) error {
		return x.exec("CHECK", calls[a], ignore)
	})
}

// fillLeases creates lease files as the reference plugin does: n of them, from the first address that it would give away
// on, without those to skip.
func fillLeases(dir string, n int, skip ...netip.Addr) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	ip := netip.MustParsePrefix(subnet4).Addr().Next() // the gateway's
	for i := 0; i < n; {
		ip = ip.Next()
		if len(skip) > 0 && ip == skip[0] {
			continue
		}
		content := fmt.Sprintf("%064x\r\n%s", i, scratch.IfName)
		if err := os.WriteFile(filepath.Join(dir, ip.String()), []byte(content), 0o600); err != nil {
			return err
		}
		i++
	}
	if len(skip) > 0 {
		ip = skip[0]
	}
	return os.WriteFile(filepath.Join(dir, "last_reserved_ip.0"), []byte(ip.String()), 0o600)
}

//go:build linux

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cniblocks/cniblocks/test/bench/internal/report"
	"github.com/cniblocks/cniblocks/test/bench/internal/scratch"
)

// emptyPool is a third arm: ours, without leases of others.
const emptyPool = "ours, empty pool"

// leases grows the pool of both sides, while an arm with an empty pool takes part.
func leases(r *run) error {
	for _, n := range pick(r, []int{0, 1000, 10_000, 60_000}, []int{0, 10_000, 60_000}) {
		if err := r.beside(fmt.Sprintf("leases %d", n), n, r.rounds(max(16, min(100, 200_000/(n+1))), 6)); err != nil {
			return err
		}
	}
	return nil
}

// beside measures ADD and DEL with n leases of other pods, and the DEL of a pod that has none.
func (r *run) beside(name string, n, rounds int) error {
	arms, err := r.withEmptyPool(name, func(a *arm) error { return fillLeases(a.leases(), n) })
	if err != nil {
		return err
	}
	defer closeAll(arms)
	arms[0].untraced, arms[1].untraced = r.same && n > 1000, n > 1000
	if err := r.interleave(name, rounds, arms, r.attach); err != nil {
		return err
	}
	stranger := &scratch.Pod{Name: arms[0].pod.Name, ContainerID: fmt.Sprintf("%064x", 0xabcdef)}
	return r.interleave(name, rounds, arms[:2], func(a *arm, x executor) error {
		return x.exec(strangerDEL, a.call(stranger, "DEL", a.conf(nil)), ignore)
	})
}

// withEmptyPool makes both sides, prepared, and the arm with an empty pool.
func (r *run) withEmptyPool(name string, prepare func(*arm) error) ([]*arm, error) {
	arms, err := r.sides(scratch.Network{})
	if err != nil {
		return nil, err
	}
	for _, a := range arms {
		if err := prepare(a); err != nil {
			closeAll(arms)
			return nil, err
		}
		// The first ADD on a node makes the bridge, and learns of leases that others made.
		if err := r.attach(a, timed{r, name + ", first on the node", a}); err != nil {
			closeAll(arms)
			return nil, err
		}
	}
	empty, err := r.arm(emptyPool, r.Ours, scratch.Network{})
	if err != nil {
		closeAll(arms)
		return nil, err
	}
	return append(arms, empty), nil
}

// lastAddress leaves one address of the pool, far from where the search starts.
func lastAddress(r *run) error {
	pool := netip.MustParsePrefix(subnet4)
	free := netip.MustParseAddr("10.88.128.0")
	// Not for pods: the network, the gateway, the broadcast address, and the one that stays free.
	n := 1<<(32-pool.Bits()) - 4
	arms, err := r.withEmptyPool("last-address", func(a *arm) error { return fillLeases(a.leases(), n, free) })
	if err != nil {
		return err
	}
	defer closeAll(arms)
	arms[0].untraced, arms[1].untraced = r.same, true
	return r.interleave("last-address", r.rounds(20, 6), arms, r.attach)
}

// burst attaches 200 pods, 32 at a time, and detaches them.
func burst(r *run) error {
	for _, c := range []struct {
		name string
		net  scratch.Network
	}{{"burst plain", scratch.Network{}}, {"burst snat", scratch.Network{IPMasq: true}}} {
		if err := r.burstOf(c.name, c.net); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) burstOf(name string, net scratch.Network) error {
	const atOnce = 32
	pods, err := r.pods.Get(0, pick(r, 200, 64))
	if err != nil {
		return err
	}
	arms, err := r.sides(net)
	if err != nil {
		return err
	}
	defer closeAll(arms)
	operation := func(verb string) string { return fmt.Sprintf("%d %s, %d at a time", len(pods), verb, atOnce) }
	round := func(a *arm, record bool) error {
		attached, cost, err := r.addAll(a, pods, atOnce, 1)
		if err != nil {
			return err
		}
		if record {
			r.record(name, operation("ADD"), a.name, cost)
		}
		cost, err = r.delAll(a, attached, atOnce)
		if err != nil {
			return err
		}
		if record {
			r.record(name, operation("DEL"), a.name, cost)
		}
		return nil
	}
	began := time.Now()
	for i := 0; i < 1+r.rounds(4, 2)/2 && (i < 2 || time.Since(began) < r.patience()); i++ {
		for _, a := range []*arm{arms[0], arms[1], arms[1], arms[0]} {
			if err := round(a, i > 0); err != nil {
				return fmt.Errorf("%s, %s: %w", name, a.name, err)
			}
		}
	}
	return nil
}

// addAll attaches the pods, so many at a time, and tries every so manieth attachment; 0 is none.
func (r *run) addAll(a *arm, pods []*scratch.Pod, parallel, every int) ([]*scratch.Attachment, scratch.Cost, error) {
	calls := make([]scratch.Call, len(pods))
	for i, p := range pods {
		calls[i] = a.call(p, "ADD", a.conf(nil))
	}
	outs, cost, err := a.world.ExecAll(calls, parallel)
	cost.Settle()
	if err != nil {
		return nil, cost, err
	}
	attached := make([]*scratch.Attachment, len(pods))
	for i, out := range outs {
		if every > 0 && i%every == 0 {
			attached[i], err = r.works(a, pods[i], out)
		} else {
			attached[i], err = a.parse(pods[i], out)
		}
		if err := errors.Join(err, pods[i].Release()); err != nil {
			return nil, cost, err
		}
	}
	return attached, cost, nil
}

// delAll detaches pods, so many at a time, and sees that they are.
func (r *run) delAll(a *arm, attached []*scratch.Attachment, parallel int) (scratch.Cost, error) {
	calls := make([]scratch.Call, len(attached))
	for i, at := range attached {
		calls[i] = a.del(at)
	}
	_, cost, err := a.world.ExecAll(calls, parallel)
	for _, at := range attached {
		if err == nil {
			err = errors.Join(at.Gone(), at.Pod.Release())
		}
	}
	cost.Settle()
	return cost, err
}

// manyPods lets the number of attached pods grow on both sides. A bridge has at most 1023 ports.
func manyPods(r *run) error {
	arms, err := r.sides(scratch.Network{IPMasq: true})
	if err != nil {
		return err
	}
	defer closeAll(arms)
	levels := pick(r, []int{0, 100, 300, 1000}, []int{0, 200})
	most := levels[len(levels)-1]
	present := 0
	for _, n := range levels {
		for i, a := range arms {
			pods, err := r.pods.Get(1+i*most+present, n-present) // the first is for the rounds
			if err != nil {
				return err
			}
			if _, _, err := r.addAll(a, pods, 4, 20); err != nil {
				return fmt.Errorf("pods %d, %s: %w", n, a.name, err)
			}
		}
		present = n
		if err := r.interleave(fmt.Sprintf("pods %d", n), r.rounds(20, 6), arms, r.attach); err != nil {
			return err
		}
	}
	return nil
}

// garbage measures GC with as many live as stale attachments. A bridge has at most 1023 ports, so the stale ones hang on
// a second bridge of the same network.
func garbage(r *run) error {
	n := pick(r, 1000, 100)
	a, err := r.arm(report.Ours, r.Ours, scratch.Network{CNIVersion: "1.1.0"})
	if err != nil {
		return err
	}
	defer a.close()
	live, err := r.pods.Get(0, n)
	if err != nil {
		return err
	}
	stale, err := r.pods.Get(n, n)
	if err != nil {
		return err
	}
	alive, _, err := r.addAll(a, live, 4, 20)
	if err != nil {
		return err
	}
	other := *a
	other.net.Bridge, other.net.L2 = "cb1", true
	for range r.rounds(4, 2) {
		dead, _, err := r.addAll(&other, stale, 4, 0) // without a gateway there is nothing to ping
		if err != nil {
			return err
		}
		out, cost, err := a.world.Exec(scratch.Call{
			Bin: a.bin, Type: a.net.Plugin(), Verb: "GC", Conf: a.conf(map[string]any{"cni.dev/valid-attachments": valid(live)}),
		})
		cost.Settle()
		if err != nil {
			return fmt.Errorf("GC: %w: %s", err, out)
		}
		r.record("gc", fmt.Sprintf("GC with %d live and %d stale attachments", n, n), a.name, cost)
		for _, at := range dead {
			if err := errors.Join(at.Gone(), at.Pod.Release()); err != nil {
				return err
			}
		}
		if _, err := alive[0].Works(false); err != nil {
			return fmt.Errorf("a live attachment after GC: %w", err)
		}
	}
	return nil
}

func valid(pods []*scratch.Pod) []map[string]string {
	list := make([]map[string]string, len(pods))
	for i, p := range pods {
		list[i] = map[string]string{"containerID": p.ContainerID, "ifname": scratch.IfName}
	}
	return list
}

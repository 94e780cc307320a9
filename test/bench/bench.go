//go:build linux

package main

import (
	"encoding/json"
	"path/filepath"

	"github.com/cniblocks/cniblocks/test/bench/internal/report"
	"github.com/cniblocks/cniblocks/test/bench/internal/scratch"
)

// run is one scenario while it runs.
type run struct {
	options
	name string
	rec  *report.Recorder
	pods *scratch.Pods
	lost map[string]int // echo requests right after ADD that had to be repeated, by arm
}

// rounds is how often every arm takes part, an even number: as often forwards as backwards.
func (r *run) rounds(normal, quick int) int {
	n := normal
	if r.Quick {
		n = quick
	}
	if r.Rounds > 0 {
		n = min(n, r.Rounds)
	}
	return (n + 1) / 2 * 2
}

// pick chooses by the length of the run.
func pick[T any](r *run, normal, quick T) T {
	if r.Quick {
		return quick
	}
	return normal
}

const (
	subnet4 = "10.88.0.0/16"
	subnet6 = "fd00:88::/64"
)

// arm is one participant: a plugin with a configuration on a node of its own.
type arm struct {
	name  string
	bin   string
	net   scratch.Network
	world *scratch.World
	pod   *scratch.Pod // for its rounds; arms take turns and may share it

	untraced bool // strace would take minutes
}

// arm makes a participant with a node of its own, which [arm.close] ends.
func (r *run) arm(name, bin string, net scratch.Network) (*arm, error) {
	if net.Subnets == nil {
		net.Subnets = []string{subnet4}
	}
	w, err := scratch.NewWorld()
	if err != nil {
		return nil, err
	}
	pods, err := r.pods.Get(0, 1)
	if err != nil {
		return nil, err
	}
	return &arm{name: name, bin: bin, net: net, world: w, pod: pods[0]}, nil
}

// sides makes our arm and the reference's, of the same configuration.
func (r *run) sides(net scratch.Network) ([]*arm, error) {
	ours, err := r.arm(report.Ours, r.Ours, net)
	if err != nil {
		return nil, err
	}
	ref, err := r.arm(report.Reference, r.Ref, net)
	if err != nil {
		ours.close()
		return nil, err
	}
	return []*arm{ours, ref}, nil
}

func (a *arm) close() { a.world.Close() }

func closeAll(arms []*arm) {
	for _, a := range arms {
		a.close()
	}
}

// dataDir is where the arm's leases are, a directory for each network.
func (a *arm) dataDir() string { return filepath.Join(a.world.Dir, "networks") }

func (a *arm) leases() string { return filepath.Join(a.dataDir(), scratch.NetworkName) }

// conf is the netconf of the arm, with further keys where given.
func (a *arm) conf(more map[string]any) []byte { return a.net.Conf(a.dataDir(), more) }

func (a *arm) call(p *scratch.Pod, verb string, conf []byte) scratch.Call {
	return p.Call(a.bin, a.net.Plugin(), verb, conf)
}

// del is the DEL of an attachment, as a runtime that remembers its result sends it.
func (a *arm) del(at *scratch.Attachment) scratch.Call {
	return a.call(at.Pod, "DEL", a.conf(map[string]any{"prevResult": json.RawMessage(at.Raw)}))
}

// detach takes back an ADD at the end of a scenario. What it leaves ends with the node.
func (a *arm) detach(at *scratch.Attachment) {
	_, cost, _ := a.world.Exec(a.del(at))
	cost.Settle()
}

func (a *arm) parse(p *scratch.Pod, out []byte) (*scratch.Attachment, error) {
	return scratch.ParseResult(a.world, p, a.leases(), a.net.BridgeName(), out)
}

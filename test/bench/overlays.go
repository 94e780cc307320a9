//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cniblocks/cniblocks/test/bench/internal/report"
	"github.com/cniblocks/cniblocks/test/bench/internal/scratch"
)

// Arms of the overlay scenario.
const (
	bridgeAlone = "bridge alone"
	hostGW      = "host-gw"
	overlay     = "overlay"
)

// overlays compares ADD through overlay and host-gw, with a thousand peers that do not change, with bridge alone.
func overlays(r *run) error {
	var arms []*arm
	defer func() { closeAll(arms) }()
	for _, plugin := range []string{overlay, hostGW} {
		if _, err := os.Stat(filepath.Join(r.Ours, plugin)); err != nil {
			fmt.Fprintf(os.Stderr, "(%s is not among our plugins) ", plugin)
			continue
		}
		a, err := r.arm(plugin, r.Ours, scratch.Network{Type: plugin, Subnets: []string{peerPods(0).String()}})
		if err != nil {
			return err
		}
		arms = append(arms, a)
		file := filepath.Join(a.world.Dir, "peers.json")
		if err := writePeers(file, pick(r, 1000, 100)); err != nil {
			return err
		}
		a.net.Keys = map[string]any{"peersFile": file, "node": peerName(0), "stateDir": filepath.Join(a.world.Dir, "state")}
		if plugin == overlay {
			a.net.Keys["encap"] = "vxlan"
		}
	}
	if len(arms) == 0 {
		return nil
	}
	alone, err := r.arm(bridgeAlone, r.Ours, scratch.Network{Subnets: []string{peerPods(0).String()}})
	if err != nil {
		return err
	}
	arms = append(arms, alone)
	return r.interleave("overlay", r.rounds(100, 20), arms, r.attach)
}

// writePeers writes a peers file of n nodes besides this one, all on the link of the uplink.
func writePeers(file string, n int) error {
	type peer struct {
		Name     string   `json:"name"`
		Endpoint []string `json:"endpoint"`
		Pods     []string `json:"pods"`
	}
	content := struct {
		Network []string `json:"network"`
		Peers   []peer   `json:"peers"`
	}{Network: []string{"10.0.0.0/8"}}
	endpoint := scratch.NodeAddrs[0].Addr()
	for i := range n + 1 {
		content.Peers = append(content.Peers, peer{peerName(i), []string{endpoint.String()}, []string{peerPods(i).String()}})
		if endpoint = endpoint.Next(); endpoint == scratch.OutsideAddrs[0].Addr() {
			endpoint = endpoint.Next()
		}
	}
	b, err := json.Marshal(content)
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o644)
}

func peerName(i int) string { return fmt.Sprintf("node%d", i) }

func peerPods(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(88 + i>>8), byte(i), 0}), 24)
}

// peerBenchmarks are the operations of the overlay package that have a goal, by the name of their benchmark. Each has
// sub-benchmarks named by an encapsulation and a number of peers.
var peerBenchmarks = map[string]string{
	"SetFromEmpty":       "Set from empty",
	"SetOneChange":       "Set with one change",
	"RepairNoDifference": "Repair without a difference",
}

// peers runs the benchmarks of the overlay package, which make namespaces of their own.
func peers(rep *report.Report, quick bool) {
	const pkg = "./overlay"
	if _, err := os.Stat(pkg); err != nil {
		return
	}
	count := "5"
	if quick {
		count = "2"
	}
	cmd := exec.Command("go", "test", "-run", "^$", "-bench", "^Benchmark("+strings.Join(slices.Sorted(maps.Keys(peerBenchmarks)), "|")+")$",
		"-benchtime", "3x", "-count", count, pkg)
	cmd.Stderr = os.Stderr
	fmt.Fprintf(os.Stderr, "%-14s ", "peers")
	began := time.Now()
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, out)
		rep.Failures = append(rep.Failures, "peers: "+err.Error())
	}
	fmt.Fprintf(os.Stderr, "%5.1f s %s\n", time.Since(began).Seconds(), outcome(err))
	var rec report.Recorder
	recordPeers(&rec, string(out))
	rows := rec.Rows()
	rep.Rows = append(rep.Rows, rows...)
	rep.Series = append(rep.Series, series(rows)...)
}

var (
	benchmarkLine = regexp.MustCompile(`^Benchmark(\w+)/([\w-]+)/(\d+)(?:-\d+)?\s+\d+\s+([\d.]+) ns/op`)
	cpuTime       = regexp.MustCompile(`([\d.]+) cpu-ms/op`)
)

// recordPeers reads what go test -bench prints.
func recordPeers(rec *report.Recorder, out string) {
	for line := range strings.Lines(out) {
		m := benchmarkLine.FindStringSubmatch(line)
		if m == nil || peerBenchmarks[m[1]] == "" {
			continue
		}
		ns, _ := strconv.ParseFloat(m[4], 64)
		took := report.Measure{Value: ns / 1e6}
		if c := cpuTime.FindStringSubmatch(line); c != nil {
			took.CPU, _ = strconv.ParseFloat(c[1], 64)
		}
		rec.Add("peers "+m[3], m[2]+": "+peerBenchmarks[m[1]], report.Ours, "ms", took)
	}
}

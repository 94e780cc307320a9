//go:build linux

package agent

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// page is metrics in the text format of Prometheus.
type page struct{ b []byte }

func (p *page) head(name, typ, help string) {
	p.b = fmt.Appendf(p.b, "# HELP %s %s\n# TYPE %[1]s %[3]s\n", name, help, typ)
}

func (p *page) gauge(name, help string, v float64) {
	p.head(name, "gauge", help)
	p.b = fmt.Appendf(p.b, "%s %v\n", name, v)
}

func (p *page) counter(name, help string, v float64) {
	p.head(name, "counter", help)
	p.b = fmt.Appendf(p.b, "%s %v\n", name, v)
}

func (a *Agent) metrics() []byte {
	s, k := a.Status(), &a.st
	var p page
	p.gauge("cniblocks_ready", "1 if this node is as it should be.", b2f(s.Ready))
	p.counter("cniblocks_ready_withdrawn_total", "How often readiness ended, for however short a time.", float64(s.Withdrawn.Times))
	p.gauge("cniblocks_peers", "Nodes in the last list, this one among them.", float64(s.Peers))
	p.gauge("cniblocks_peers_refused", "Peers that are left out, or a part of whom is.", float64(len(s.Refused)))
	p.gauge("cniblocks_routes", "Routes of ours in the kernel.", float64(s.Routes))
	p.gauge("cniblocks_mtu_bytes", "MTU for pods.", float64(s.MTU))

	p.head("cniblocks_set_seconds", "summary", "Time to bring the kernel in step with a list.")
	p.b = fmt.Appendf(p.b, "cniblocks_set_seconds_sum %v\ncniblocks_set_seconds_count %d\n", time.Duration(k.setNanos.Load()).Seconds(), k.sets.Load())
	p.gauge("cniblocks_last_set_seconds", "Time that the last list took.", s.LastSet)

	p.head("cniblocks_repairs_total", "counter", "Comparisons with the kernel, by what was the reason.")
	p.b = fmt.Appendf(p.b, "cniblocks_repairs_total{cause=\"event\"} %d\ncniblocks_repairs_total{cause=\"lost\"} %d\ncniblocks_repairs_total{cause=\"resync\"} %d\n",
		s.Repairs.Event, s.Repairs.Lost, s.Repairs.Resync)
	p.counter("cniblocks_kernel_announcements_lost_total", "How often announcements of the kernel were lost.", float64(k.lostEvents.Load()))
	p.counter("cniblocks_firewall_changes_total", "How often SNAT or forwarding rules had to be made or changed.", float64(k.firewalls.Load()))

	p.gauge("cniblocks_source_up", "1 if the source of peers answers.", b2f(s.Source.Up))
	p.gauge("cniblocks_source_lag_seconds", "For how long the source has been failing.", s.Source.Lag)
	p.counter("cniblocks_source_lists_total", "Lists that the source has given.", float64(s.Source.Lists))
	p.head("cniblocks_source_left_out", "gauge", "Entries of the source that are left out, by the key that is wrong.")
	k.with(func() {
		for _, key := range slices.Sorted(maps.Keys(k.outByKey)) {
			p.b = fmt.Appendf(p.b, "cniblocks_source_left_out{key=%q} %d\n", key, k.outByKey[key])
		}
	})
	p.counter("cniblocks_peers_joined_total", "Nodes that have joined since the first list.", float64(k.joins.Load()))
	p.counter("cniblocks_peers_left_total", "Nodes that have left since the first list.", float64(k.leaves.Load()))
	p.gauge("cniblocks_source_from_disk", "1 if the peers are those that an earlier agent left.", b2f(s.Source.FromDisk))
	if a.Calls != nil {
		p.counter("cniblocks_source_calls_total", "Calls to the store.", float64(a.Calls()))
	}
	if s.Source.Expiry != nil {
		p.gauge("cniblocks_lease_expiry_timestamp_seconds", "When this node's ranges expire unless they are renewed.", float64(s.Source.Expiry.Unix()))
	}
	p.counter("cniblocks_ranges_lost_total", "How often this node's ranges were lost to another.", float64(s.LostRuns))
	p.counter("cniblocks_errors_total", "Errors of all kinds.", float64(k.errors.Load()))
	p.process(s)
	return p.b
}

// process has the names that Prometheus' own clients use.
func (p *page) process(s Status) {
	var use unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &use) == nil {
		cpu := time.Duration(use.Utime.Nano() + use.Stime.Nano())
		p.counter("process_cpu_seconds_total", "Processor time.", cpu.Seconds())
	}
	p.gauge("process_resident_memory_bytes", "Memory in use.", float64(resident()))
	p.gauge("process_start_time_seconds", "When the agent started.", float64(s.Started.Unix()))
}

func b2f(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// resident is the memory of this process that is in use, in bytes (proc(5), statm).
func resident() int {
	b, err := os.ReadFile("/proc/self/statm")
	var size, pages int
	if err != nil {
		return 0
	}
	if _, err := fmt.Sscan(string(b), &size, &pages); err != nil {
		return 0
	}
	return pages * os.Getpagesize()
}

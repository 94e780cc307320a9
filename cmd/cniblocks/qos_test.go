//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/cni/cnitest"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/plugins/bandwidth"
	"github.com/cniblocks/cniblocks/plugins/bridge"
)

// qosLab is a node with a pod in network net.
type qosLab struct {
	t          *testing.T
	node       *netns.NS
	name, dir  string
	conf, last string // the netconfs of the bridge and of bandwidth
	pods       map[string]*netns.NS
	results    map[string][]byte
}

func newQoSLab(t *testing.T) *qosLab {
	t.Helper()
	nstest.Need(t, nstest.Shaping, nstest.Bridge)
	name, node := nstest.Named(t)
	dir := t.TempDir()
	return &qosLab{t: t, node: node, name: name, dir: dir, pods: map[string]*netns.NS{}, results: map[string][]byte{},
		conf: strings.ReplaceAll(bridged(`"isGateway":true,"ipam":{"type":"host-local","dataDir":"DIR","subnet":"10.1.2.0/24"}`), "DIR", dir),
		last: `{"cniVersion":"1.1.0","name":"net","type":"bandwidth","ingressRate":2000000,"ingressBurst":200000,"egressRate":4000000,"egressBurst":200000}`}
}

func (w *qosLab) call(verb cni.Verb, id, conf string) cnitest.Answer {
	w.t.Helper()
	p := cni.Plugin(bridge.Plugin{})
	if conf == w.last {
		p = bandwidth.Plugin
	}
	q := cnitest.Request{Verb: verb, ContainerID: id, Config: conf, Prev: w.results[id]}
	if verb != cni.DEL {
		q.Pod = w.pods[id]
	}
	a, err := q.Run(w.t.Context(), w.node, p, linkedIn)
	require.NoError(w.t, err)
	return a
}

func (w *qosLab) add(id, conf string) {
	w.t.Helper()
	if w.pods[id] == nil {
		w.pods[id] = nstest.New(w.t)
	}
	a := w.call(cni.ADD, id, conf)
	require.Zero(w.t, a.Status, "%s", a)
	w.results[id] = a.Out
}

func (w *qosLab) qos(args ...string) (status int, out, errs string) {
	w.t.Helper()
	var o, e strings.Builder
	status = run(w.t.Context(), append([]string{"qos", "--netns", w.name, "--data-dir", w.dir, "--cache-dir", w.dir}, args...), &o, &e)
	return status, o.String(), e.String()
}

func (w *qosLab) said(args ...string) string {
	w.t.Helper()
	status, out, errs := w.qos(args...)
	require.Zero(w.t, status, errs)
	return out
}

func TestTheRatesOfARunningPodAreChangedAtOncePassTheNextCHECKAndGoWithDEL(t *testing.T) {
	t.Parallel()
	w := newQoSLab(t)
	w.add("first", w.conf) // the bridge stays
	nstest.Settle(t, w.node)
	before := nstest.Dump(w.node)
	w.add("c1", w.conf)
	w.add("c1", w.last)
	require.Equal(t, "c1 eth0: receives 2 Mbit/s with a burst of 25 kB, sends 4 Mbit/s with a burst of 25 kB\n", w.said())
	require.Equal(t, "c1 eth0: receives 6 Mbit/s (set by hand) with a burst of 50 kB, sends 4 Mbit/s with a burst of 25 kB\n",
		w.said("c1", "--ingress", "6M", "--ingress-burst", "50000"))
	require.Zero(t, w.call(cni.CHECK, "c1", w.last).Status)
	gateway := nstest.Rate(t, w.node, w.pods["c1"], podAddr(t, w.results["c1"]), 1_500_000)
	require.Less(t, gateway, 6.6e6)
	require.Greater(t, gateway, 2.2e6, "more than the netconf allows")
	require.Equal(t, "c1 eth0: receives 6 Mbit/s (set by hand) with a burst of 50 kB, sends no limit (set by hand)\n", w.said("--egress", "none", "c1"))
	require.Zero(t, w.call(cni.CHECK, "c1", w.last).Status)
	require.Contains(t, w.said(), "sends no limit (set by hand)")
	require.Zero(t, w.call(cni.DEL, "c1", w.last).Status)
	require.Equal(t, "no pod has a limit\n", w.said())
	require.Zero(t, w.call(cni.DEL, "c1", w.conf).Status)
	require.Equal(t, before, nstest.Dump(w.node))
}

func TestAPodWithoutTheBandwidthPluginIsLimitedTooAndItsDELOrGCLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newQoSLab(t)
	w.add("first", w.conf)
	nstest.Settle(t, w.node)
	before := nstest.Dump(w.node)
	for _, verb := range []cni.Verb{cni.DEL, cni.GC} {
		w.add("c1", w.conf)
		require.Contains(t, w.said("c1", "--ingress", "1M", "--egress", "500k"), "receives 1 Mbit/s (set by hand) with a burst of 15 kB, sends 500 kbit/s")
		require.Zero(t, w.call(cni.CHECK, "c1", w.conf).Status)
		if verb == cni.DEL {
			require.Zero(t, w.call(verb, "c1", w.conf).Status)
		} else {
			require.NoError(t, link.Delete(t.Context(), w.node, link.HostName("net", "c1", "eth0"), "veth")) // as a runtime that lost it
			a, err := cnitest.Request{Verb: verb, Config: w.conf, Valid: []cni.Attachment{{ContainerID: "first", IfName: "eth0"}}}.Run(t.Context(), w.node, bridge.Plugin{}, linkedIn)
			require.NoError(t, err)
			require.Zero(t, a.Status, "%s", a)
		}
		require.Equal(t, before, nstest.Dump(w.node), verb)
		delete(w.pods, "c1")
		delete(w.results, "c1")
	}
}

func TestAPodIsFoundByItsNameAndByTheBeginningOfItsContainerID(t *testing.T) {
	t.Parallel()
	w := newQoSLab(t)
	w.add("abc1", w.conf)
	w.add("abc2", w.conf)
	require.NoError(t, os.Mkdir(filepath.Join(w.dir, "results"), 0o700))
	for file, text := range map[string]string{"broken": "{", "net-abc2-eth0": `{"kind":"cniCacheV1","containerId":"abc2","cniArgs":[["IgnoreUnknown","1"],["K8S_POD_NAMESPACE","default"],["K8S_POD_NAME","web"]]}`} {
		require.NoError(t, os.WriteFile(filepath.Join(w.dir, "results", file), []byte(text), 0o600))
	}
	for _, word := range []string{"web", "default/web", "abc2"} {
		require.Equal(t, "default/web eth0: receives no limit, sends no limit\n", w.said(word))
	}
	require.Contains(t, w.said("web", "--egress", "10M"), "sends 10 Mbit/s")
	var list []struct {
		Pod, HostEnd string
		Egress       struct{ Rate uint64 }
	}
	require.NoError(t, json.Unmarshal([]byte(w.said("-o", "json")), &list))
	require.Len(t, list, 1)
	require.Equal(t, []any{"default/web", link.HostName("net", "abc2", "eth0"), uint64(1e7)}, []any{list[0].Pod, list[0].HostEnd, list[0].Egress.Rate})
	for want, args := range map[string][]string{
		"there are several: abc1 eth0 of network net, abc2 eth0 of network net": {"abc", "--ingress", "1M"},
		`no interface here is of a pod or container "no"`:                       {"no"},
		`container "abc1"`: {"abc1", "--interface", "eth9"},
		`container "abc2"`: {"abc2", "--network", "other"},
		"lets no packet of the MTU 1500 pass: want at least 1514 bytes": {"abc1", "--ingress", "1M", "--ingress-burst", "1000"},
	} {
		status, _, errs := w.qos(args...)
		require.Equal(t, failed, status)
		require.Contains(t, errs, want)
	}
	for want, args := range map[string][]string{
		"a rate is given, and no pod":      {"--ingress", "1M"},
		"want --egress too":                {"abc1", "--egress-burst", "20000"},
		`--ingress is "10m": want bits`:    {"abc1", "--ingress", "10m"},
		`--ingress is "10Mbps": want bits`: {"abc1", "--ingress", "10Mbps"},
		`--ingress is "3": want 8 bit/s`:   {"abc1", "--ingress", "3"},
	} {
		status, _, errs := w.qos(args...)
		require.Equal(t, misuse, status)
		require.Contains(t, errs, want)
	}
}

func TestARateIsReadAsPeopleWriteIt(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]uint64{"none": 0, "8": 8, "500k": 5e5, "500K": 5e5, "10M": 1e7, "10Mbit": 1e7, "10Mbit/s": 1e7, "2.5G": 25e8, "1T": 1e12} {
		v, err := parseRate(s)
		require.NoError(t, err, s)
		require.Equal(t, want, v, s)
	}
	for _, s := range []string{"", "M", "-1M", "0", "7", "1e9", "0x10", "10m", "10MB", "10Mbps", "NaN", "Inf", "1001T", "10 M x", fmt.Sprint(uint64(1) << 63)} {
		_, err := parseRate(s)
		require.Error(t, err, s)
	}
}

func podAddr(t *testing.T, result []byte) netip.Addr {
	t.Helper()
	res, err := cni.ParseResult(result)
	require.NoError(t, err)
	return res.IPs[0].Address.Addr()
}

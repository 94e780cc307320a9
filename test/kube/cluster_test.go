//go:build linux

package kube_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/cniblocks/cniblocks/internal/test/kubetest"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
)

const (
	podNetwork  = "10.244.0.0/16"
	podNetwork6 = "fd00:10:244::/48"
	gateway     = "192.0.2.254"
	gateway6    = "2001:db8::fe"
	endurance   = 3 * time.Minute // how long to wait for what must happen
)

// cluster is a control plane and the switch that its nodes hang on.
type cluster struct {
	*kubetest.API
	t     *testing.T
	lan   *netns.NS // the switch, and a host outside of the cluster
	begin time.Time
	ports int
	options
}

// options are what clusters differ in.
type options struct {
	images     []string // archives for every node
	plugins    []string // of the reference, that every node has
	containerd string   // directory with its programs; "": the installed one
	dual       bool     // pods have addresses of both families
}

func newCluster(t *testing.T, o options) *cluster {
	t.Helper()
	c := &cluster{t: t, lan: nstest.New(t), options: o, begin: time.Now()}
	h := nstest.Netlink(t, c.lan)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br0"
	require.NoError(t, h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	br, err := h.LinkByName("br0")
	require.NoError(t, err)
	require.NoError(t, h.LinkSetUp(br))
	nstest.AddAddrs(t, c.lan, "br0", gateway+"/24", gateway6+"/64")

	control := nstest.New(t)
	c.plug(control, "192.0.2.100")
	c.API, err = kubetest.Start(kubetest.Options{NS: control, Addr: netip.MustParseAddr("192.0.2.100")})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	pods := podNetwork
	if c.dual {
		pods += "," + podNetwork6
	}
	require.NoError(t, c.StartControllers(pods))
	c.eventually("the controller manager works", func() bool {
		_, err := c.Kubectl("", "-n", "default", "get", "serviceaccount", "default")
		return err == nil
	})
	return c
}

// plug connects a machine to the switch.
func (c *cluster) plug(ns *netns.NS, ip string) {
	c.t.Helper()
	c.ports++
	port := fmt.Sprint("port", c.ports)
	nstest.Link(c.t, nstest.End{NS: ns, Name: "eth0", Addrs: []string{ip + "/24", six(ip) + "/64"}}, nstest.End{NS: c.lan, Name: port})
	nstest.AddRoute(c.t, ns, "default", gateway)
	nstest.AddRoute(c.t, ns, "default", gateway6)
	h := nstest.Netlink(c.t, c.lan)
	br, err := h.LinkByName("br0")
	require.NoError(c.t, err)
	p, err := h.LinkByName(port)
	require.NoError(c.t, err)
	require.NoError(c.t, h.LinkSetMaster(p, br))
}

// six is the IPv6 address of the machine with an IPv4 one.
func six(ip string) string { return "2001:db8::" + ip[strings.LastIndex(ip, ".")+1:] }

// kubectl runs a command that must work.
func (c *cluster) kubectl(args ...string) string {
	c.t.Helper()
	return c.apply("", args...)
}

// apply is kubectl with a standard input.
func (c *cluster) apply(stdin string, args ...string) string {
	c.t.Helper()
	out, err := c.Kubectl(stdin, args...)
	require.NoError(c.t, err)
	return strings.TrimSpace(out)
}

// eventually waits for a state, and prints when it was there.
func (c *cluster) eventually(what string, holds func() bool) {
	c.t.Helper()
	for end := time.Now().Add(endurance); !holds(); time.Sleep(100 * time.Millisecond) {
		require.True(c.t, time.Now().Before(end), "not after %s: %s", endurance, what)
	}
	c.t.Logf("%6.1f s: %s", time.Since(c.begin).Seconds(), what)
}

// condition is the status of a node's condition, and its reason.
func (c *cluster) condition(node, kind string) (status, reason string) {
	c.t.Helper()
	out, err := c.Kubectl("", "get", "node", node, "-o", `jsonpath={range .status.conditions[?(@.type=="`+kind+`")]}{.status} {.reason}{end}`)
	if err != nil {
		return "", ""
	}
	status, reason, _ = strings.Cut(out, " ")
	return status, reason
}

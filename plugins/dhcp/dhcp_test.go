//go:build linux

package dhcp_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/cni/cnitest"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/internal/test/reference"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/plugins/dhcp"
	"github.com/cniblocks/cniblocks/plugins/dhcp/lease"
	"github.com/cniblocks/cniblocks/plugins/macvlan"
)

var echo = ping.Options{}

func TestPodsGetAddressesAndRoutesFromTheServerAndGiveThemBack(t *testing.T) {
	t.Parallel()
	w := newLab(t)
	leases := w.dnsmasq("--dhcp-option=121,10.9.0.0/16,10.7.0.1,169.254.7.7/32,0.0.0.0,0.0.0.0/0,10.7.0.1")
	w.daemon()
	require.Zero(t, w.call(cnitest.Request{Verb: cni.STATUS}).Status)
	w.more = `, "priority": 50, "provide": [{"option": "host-name", "fromArg": "K8S_POD_NAME"}]`
	pods := map[string]netip.Prefix{}
	for _, id := range []string{"c1", "c2"} {
		pod := nstest.New(t)
		a := w.call(cnitest.Request{ContainerID: id, Pod: pod, Args: "IgnoreUnknown=1;K8S_POD_NAME=web-" + id})
		require.Zero(t, a.Status, "%s", a)
		pods[id] = address(t, a.Out)
		require.NoError(t, nstest.Ping(t.Context(), pod, netip.MustParseAddr("10.7.0.1"), echo))
		routes := nstest.Run(t, pod, "ip", "-4", "route")
		require.Contains(t, routes, "default via 10.7.0.1 dev eth0")
		require.Contains(t, routes, "10.9.0.0/16 via 10.7.0.1 dev eth0")
		require.Contains(t, routes, "169.254.7.7 dev eth0 scope link metric 50")
		check := w.call(cnitest.Request{Verb: cni.CHECK, ContainerID: id, Pod: pod, Prev: a.Out})
		require.Zero(t, check.Status, "%s", check)
		eth0, err := link.Get(t.Context(), pod, "eth0")
		require.NoError(t, err)
		require.Contains(t, read(t, leases), eth0.MAC.String()+" "+pods[id].Addr().String()+" web-"+id, "the MAC of the lease is the one that the pod has")
		require.Zero(t, w.call(cnitest.Request{Verb: cni.DEL, ContainerID: id, Pod: pod, Prev: a.Out}).Status)
		require.Zero(t, w.call(cnitest.Request{Verb: cni.DEL, ContainerID: id, Pod: pod, Prev: a.Out}).Status, "twice")
		w.until("the server has the address again", func() bool { return !strings.Contains(read(t, leases), pods[id].Addr().String()) })
	}
	require.NoError(t, os.Remove(filepath.Join(w.dir, "notes")), "no note is left")
}

func TestARestartedDaemonGoesOnWithTheLeases(t *testing.T) {
	t.Parallel()
	w := newLab(t)
	s := w.serve(time.Hour)
	stop := w.daemon()
	pod, gone := nstest.New(t), nstest.New(t)
	out, _ := w.add("c1", pod)
	w.add("gone", gone)
	stop()
	nstest.Run(t, gone, "ip", "link", "del", "eth0")
	require.NoError(t, os.WriteFile(filepath.Join(w.dir, "notes", "0.json"), []byte("{"), 0o600))
	a := w.call(cnitest.Request{Verb: cni.STATUS})
	require.Equal(t, 1, a.Status)
	require.Contains(t, string(a.Out), `"code":50`)
	require.Contains(t, string(a.Out), "cniblocks dhcp")

	w.daemon()
	discovers := s.count(dhcpv4.MessageTypeDiscover)
	a = w.call(cnitest.Request{Verb: cni.CHECK, ContainerID: "c1", Pod: pod, Prev: out})
	require.Zero(t, a.Status, "%s", a)
	require.Equal(t, discovers, s.count(dhcpv4.MessageTypeDiscover), "nothing is asked anew")
	w.until("the note of the pod that is gone, and the one that cannot be read, go", func() bool {
		all, err := filepath.Glob(filepath.Join(w.dir, "notes", "*"))
		require.NoError(t, err)
		return len(all) == 1
	})
	require.Zero(t, w.call(cnitest.Request{Verb: cni.DEL, ContainerID: "c1", Pod: pod}).Status)
	w.until("the address is given back", func() bool { return s.count(dhcpv4.MessageTypeRelease) == 1 })
}

func TestALeaseIsRenewedWhereItsServerAnswersAndWhereAnyDoes(t *testing.T) {
	t.Parallel()
	w := newLab(t)
	s := w.serve(6 * time.Second) // renewed after 3, by any server after 5.25
	w.daemonWith(lease.Times{Request: 2 * time.Second, ResendMax: time.Second, GiveUp: 20 * time.Second})
	pod := nstest.New(t)
	out, p := w.add("c1", pod)
	discovers := s.count(dhcpv4.MessageTypeDiscover)
	w.until("it is renewed", func() (is bool) {
		s.set(func() { is = s.last[dhcpv4.MessageTypeRequest].ClientIPAddr.Equal(s.give) })
		return is
	})
	s.set(func() {
		require.Equal(t, "10.7.0.60", s.last[dhcpv4.MessageTypeRequest].ClientIPAddr.String())
		require.Equal(t, "10.7.0.60:68", s.from[dhcpv4.MessageTypeRequest].String(), "from the address itself, by way of its routes")
		require.Nil(t, s.last[dhcpv4.MessageTypeRequest].ServerIdentifier(), "RFC 2131, section 4.3.2")
	})
	at := s.count(dhcpv4.MessageTypeRequest)
	w.until("and again", func() bool { return s.count(dhcpv4.MessageTypeRequest) > at })
	require.True(t, w.has(pod, p))
	require.Equal(t, discovers, s.count(dhcpv4.MessageTypeDiscover), "nothing is asked anew")
	require.Zero(t, w.call(cnitest.Request{Verb: cni.CHECK, ContainerID: "c1", Pod: pod, Prev: out}).Status)
}

func TestAnAddressWhoseLeaseEndsIsTakenOffAndComesBackWithItsRoutes(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*server){
		"no server answers":                             func(s *server) { s.silent = true },
		"the server says no, and gives another address": func(s *server) { s.nak, s.give = true, net.IPv4(10, 7, 0, 61) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newLab(t)
			s := w.serve(3 * time.Second)
			stop := w.daemonWith(lease.Times{Request: 500 * time.Millisecond, ResendMax: time.Second, GiveUp: 20 * time.Second})
			pod := nstest.New(t)
			out, p := w.add("c1", pod)
			nstest.AddRoute(t, pod, "10.99.0.0/16", "10.7.0.9") // by hand
			s.set(func() { lose(s) })
			w.until("the address goes", func() bool { return !w.has(pod, p) })
			w.until("CHECK says so", func() bool {
				a := w.call(cnitest.Request{Verb: cni.CHECK, ContainerID: "c1", Pod: pod, Prev: out})
				return a.Status == 1 && strings.Contains(string(a.Out), "the lease of 10.7.0.60 has expired")
			})
			routes := "default via 10.7.0.1 dev eth0"
			if name == "no server answers" { // the next daemon knows that it is withdrawn, and the routes of the lease
				stop()
				w.daemon()
			} else {
				routes = "10.99.0.0/16 via 10.7.0.9 dev eth0"
			}
			s.set(func() { s.silent, s.nak, s.give, s.time = false, false, net.IPv4(10, 7, 0, 60), time.Hour })
			w.until("the address comes back", func() bool { return w.has(pod, p) })
			require.Contains(t, nstest.Run(t, pod, "ip", "route"), routes)
			w.until("CHECK is content", func() bool {
				return w.call(cnitest.Request{Verb: cni.CHECK, ContainerID: "c1", Pod: pod, Prev: out}).Status == 0
			})
		})
	}
}

func TestGCGivesBackWhatNoAttachmentOwnsAndLeavesOtherNetworks(t *testing.T) {
	t.Parallel()
	w := newLab(t)
	leases := w.dnsmasq()
	w.daemon()
	addrs := map[string]string{}
	for _, id := range []string{"c1", "c2", "c3"} {
		_, p := w.add(id, nstest.New(t))
		addrs[id] = p.Addr().String()
	}
	other := strings.Replace(w.conf(), `"lan"`, `"other"`, 1)
	a := w.call(cnitest.Request{ContainerID: "c4", Pod: nstest.New(t), Config: other})
	require.Zero(t, a.Status, "%s", a)
	a = w.call(cnitest.Request{Verb: cni.GC, Valid: []cni.Attachment{{ContainerID: "c2", IfName: "eth0"}}})
	require.Zero(t, a.Status, "%s", a)
	require.Len(t, notes(t, w), 2)
	require.Contains(t, read(t, leases), addrs["c2"])
	a = w.call(cnitest.Request{Verb: cni.GC, Valid: []cni.Attachment{}})
	require.Zero(t, a.Status, "%s", a)
	require.Len(t, notes(t, w), 1)
}

func notes(t *testing.T, w *lab) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(w.dir, "notes", "*"))
	require.NoError(t, err)
	return all
}

func TestAContainerThatIsStartedAnewGetsItsAddressAgain(t *testing.T) {
	t.Parallel()
	w := newLab(t)
	w.dnsmasq()
	w.daemon()
	first := nstest.New(t)
	_, had := w.add("c1", first)
	nstest.Run(t, first, "ip", "link", "del", "eth0") // without a DEL
	out, has := w.add("c1", nstest.New(t))
	require.Equal(t, had, has, "the server knows the client ID")
	require.Len(t, notes(t, w), 1)
	require.NotEmpty(t, out)
}

func TestAnADDThatGetsNoLeaseLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newLab(t)
	w.daemonWith(lease.Times{Request: 300 * time.Millisecond, ResendMax: 100 * time.Millisecond, GiveUp: time.Second})
	w.call(cnitest.Request{Pod: nstest.New(t)}) // the bridge is the network's from here on
	nstest.Settle(t, w.node)
	was := nstest.Dump(w.node)
	a := w.call(cnitest.Request{Pod: nstest.New(t)})
	require.Equal(t, 1, a.Status)
	require.Contains(t, string(a.Out), `"msg":"error calling DHCP.Allocate: no more tries","details":"no DHCP server on the link of eth0`)
	require.Equal(t, was, nstest.Dump(w.node))
	require.Empty(t, notes(t, w))
}

func TestWhatCannotBeIsRefusedBeforeAnyChangeByItsKey(t *testing.T) {
	t.Parallel()
	w := newLab(t)
	s := w.serve(time.Hour)
	w.daemon()
	for _, c := range []struct{ more, want string }{
		{`, "provide": [{"option": "hostname", "value": "x"}]`, `\"ipam.provide[0].option\" is \"hostname\"`},
		{`, "request": [{}, {"option": "0"}]`, `\"ipam.request[1].option\" is \"0\"`},
		{`, "provide": [{"option": "12", "value": "` + strings.Repeat("x", 256) + `"}]`, `want at most 255`},
		{`, "priority": "high"`, `\"ipam.priority\"`},
	} {
		w.more = c.more
		pod := nstest.New(t)
		a := w.call(cnitest.Request{Pod: pod})
		require.Equal(t, 1, a.Status, "%s", c.more)
		require.Contains(t, string(a.Out), c.want)
		require.Contains(t, string(a.Out), `"code":7`)
	}
	w.more = ""
	conf := strings.Replace(w.conf(), w.socket, filepath.Join(w.dir, "nobody"), 1)
	a := w.call(cnitest.Request{Pod: nstest.New(t), Config: conf})
	require.Contains(t, string(a.Out), `"code":11`)
	require.Contains(t, string(a.Out), `\"ipam.daemonSocketPath\"`)
	require.Contains(t, string(a.Out), "systemctl enable --now cniblocks-dhcp.socket")
	a = w.call(cnitest.Request{Verb: cni.DEL, Config: conf})
	require.Zero(t, a.Status, "%s", a)
	require.Contains(t, a.Err, "ends by itself")
	require.Zero(t, s.count(dhcpv4.MessageTypeDiscover))
	s2 := dhcp.Settings{Socket: w.socket, Daemon: dhcp.Daemon{Dir: w.dir}}
	require.ErrorContains(t, s2.Run(t.Context()), "another daemon answers at "+w.socket)
}

func TestEachPluginWorksWithEachDaemonAndPodsChangeOver(t *testing.T) {
	t.Parallel()
	theirs, err := reference.Build("dhcp", "bridge")
	require.NoError(t, err)
	w := newLab(t)
	leases := w.dnsmasq()
	pod, outside := nstest.New(t), nstest.New(t)

	// Their daemon, our plugin.
	w.socket = filepath.Join(w.dir, "theirs.sock")
	stop := start(t, w.node, filepath.Join(theirs, "dhcp"), "daemon", "-socketpath", w.socket)
	w.until("their daemon listens", func() bool { _, err := os.Stat(w.socket); return err == nil })
	out, p := w.add("c1", pod)
	for _, verb := range []cni.Verb{cni.CHECK, cni.STATUS} {
		a := w.call(cnitest.Request{Verb: verb, ContainerID: "c1", Pod: pod, Prev: out})
		require.Zero(t, a.Status, "%s: %s", verb, a)
	}
	a := w.call(cnitest.Request{Verb: cni.GC, Valid: []cni.Attachment{{ContainerID: "c1", IfName: "eth0"}}})
	require.Zero(t, a.Status, "%s", a)
	require.Contains(t, a.Err, "has no GC")
	stop()

	// Our daemon takes the pod over: the same address, whose lease nobody noted.
	w.socket = filepath.Join(w.dir, "dhcp.sock")
	w.daemon()
	a = w.call(cnitest.Request{Verb: cni.CHECK, ContainerID: "c1", Pod: pod, Prev: out})
	require.Zero(t, a.Status, "%s", a)
	require.Len(t, notes(t, w), 1)
	require.True(t, w.has(pod, p))

	// Their plugins, our daemon.
	asked := cnitest.Request{ContainerID: "c2", Pod: outside, Path: theirs}
	w.plugin = cni.Exec(filepath.Join(theirs, "bridge"))
	a = w.call(asked)
	require.Zero(t, a.Status, "%s", a)
	second := address(t, a.Out)
	require.Len(t, notes(t, w), 2)
	asked.Verb, asked.Prev = cni.CHECK, a.Out
	a = w.call(asked)
	require.Zero(t, a.Status, "%s", a)
	asked.Verb = cni.DEL
	a = w.call(asked)
	require.Zero(t, a.Status, "%s", a)
	require.Len(t, notes(t, w), 1, "given back or not: their bridge removes the interface before it calls the IPAM plugin")
	require.Contains(t, read(t, leases), second.Addr().String())
}

func TestAnAddressWhoseLeaseNobodyNotedIsGivenBack(t *testing.T) {
	t.Parallel()
	w := newLab(t)
	leases := w.dnsmasq()
	stop := w.daemon()
	pod := nstest.New(t)
	out, p := w.add("c1", pod)
	stop()
	require.NoError(t, os.RemoveAll(filepath.Join(w.dir, "notes")))
	require.Contains(t, read(t, leases), p.Addr().String())
	w.daemon()
	a := w.call(cnitest.Request{Verb: cni.DEL, ContainerID: "c1", Pod: pod, Prev: out})
	require.Zero(t, a.Status, "%s", a)
	w.until("the server has the address again", func() bool { return !strings.Contains(read(t, leases), p.Addr().String()) })
}

func TestAStationOfMacvlanHasAnAddressOfTheWireAndGivesItBack(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.Macvlan)
	w := newLab(t)
	leases := w.dnsmasq()
	w.daemon()
	nstest.Link(t, nstest.End{NS: w.node, Name: "second"}, nstest.End{NS: w.node, Name: "uplink"})
	nstest.Run(t, w.node, "ip", "link", "set", "second", "master", "br0")
	w.plugin = macvlan.Plugin()
	conf := strings.NewReplacer(`"type": "bridge"`, `"type": "macvlan"`, `"bridge": "br0"`, `"master": "uplink"`).Replace(w.conf())
	pod := nstest.New(t)
	a := w.call(cnitest.Request{Pod: pod, Config: conf})
	require.Zero(t, a.Status, "%s", a)
	p := address(t, a.Out)
	require.NoError(t, nstest.Ping(t.Context(), pod, netip.MustParseAddr("10.7.0.1"), echo))
	eth0, err := link.Get(t.Context(), pod, "eth0")
	require.NoError(t, err)
	require.Contains(t, read(t, leases), eth0.MAC.String()+" "+p.Addr().String())
	check := w.call(cnitest.Request{Verb: cni.CHECK, Pod: pod, Config: conf, Prev: a.Out})
	require.Zero(t, check.Status, "%s", check)
	require.Zero(t, w.call(cnitest.Request{Verb: cni.DEL, Pod: pod, Config: conf, Prev: a.Out}).Status)
	w.until("the server has the address again", func() bool { return !strings.Contains(read(t, leases), p.Addr().String()) })
	require.Empty(t, notes(t, w))
}

func TestResultsAreThoseOfEveryVersion(t *testing.T) {
	t.Parallel()
	w := newLab(t)
	w.dnsmasq()
	w.daemon()
	for i, v := range cni.Versions {
		pod := nstest.New(t)
		a, err := cnitest.Request{ContainerID: fmt.Sprint("v", i), Pod: pod, Config: w.conf(), Version: v}.Run(t.Context(), w.node, w.plugin, cni.Delegates{"dhcp": dhcp.Plugin{}})
		require.NoError(t, err)
		require.Zero(t, a.Status, "%s: %s", v, a)
		require.Contains(t, string(a.Out), `"cniVersion":"`+v+`"`)
		require.Contains(t, string(a.Out), `"10.7.0.`)
	}
}

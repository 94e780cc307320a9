//go:build linux

package portmap_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/portmap"
	"github.com/cniblocks/cniblocks/sysctl"
)

// backends are both, by name.
func backends(t *testing.T, w world) map[string]portmap.Backend {
	t.Helper()
	all := map[string]portmap.Backend{"nftables": portmap.Table{NS: w.node}}
	if nstest.Has(nstest.IPTables) && nstest.Has(nstest.IP6Tables) {
		all["iptables"] = portmap.IPTables{NS: w.node, MarkBit: 13}
	}
	return all
}

func need(t *testing.T, backend string) {
	t.Helper()
	nstest.Need(t, nstest.NFT, nstest.Bridge)
	if backend == "iptables" {
		nstest.Need(t, nstest.IPTables, nstest.IP6Tables)
	}
}

func open(w world, backend string) portmap.Backend {
	if backend == "iptables" {
		return portmap.IPTables{NS: w.node, MarkBit: 13}
	}
	return portmap.Table{NS: w.node}
}

func TestAHostPortIsReachedFromEverywhereAndLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"nftables", "iptables"} {
		for _, nf := range []string{"0", "1"} {
			t.Run(backend+", bridge-nf-call-iptables="+nf, func(t *testing.T) {
				t.Parallel()
				need(t, backend)
				w := newWorld(t, 2)
				if !bridgeFilter(t, w.node, nf) && nf == "1" {
					t.Skip("the kernel has no br_netfilter")
				}
				answer(t, w.pods[0], "pod")
				b, p := open(w, backend), pod(0, 8080, portmap.TCP, portmap.UDP)
				require.NoError(t, b.Set(t.Context(), p)) // the programs make base chains, which they never remove
				require.NoError(t, b.Remove(t.Context(), p.Owner))
				nstest.Settle(t, w.node)
				before := nstest.Dump(w.node)
				require.NoError(t, b.Set(t.Context(), p))
				require.NoError(t, b.Check(t.Context(), p))
				for _, c := range []struct {
					from     *netns.NS
					to, seen string
				}{
					{w.outside, "192.0.2.1:8080", "192.0.2.2"},
					{w.outside, "[2001:db8::1]:8080", "2001:db8::2"},
					{w.node, "192.0.2.1:8080", ""},
					{w.node, "10.1.0.1:8080", "10.1.0.1"},
					{w.node, "127.0.0.1:8080", "10.1.0.1"},
					{w.node, "[2001:db8::1]:8080", ""},
					{w.pods[0], "10.1.0.1:8080", "10.1.0.1"},
					{w.pods[0], "192.0.2.1:8080", "10.1.0.1"},
					{w.pods[0], "[fd00:1::1]:8080", "fd00:1::1"},
					{w.pods[1], "192.0.2.1:8080", "10.1.0.1"},
					{w.pods[1], "[2001:db8::1]:8080", "fd00:1::1"},
				} {
					for _, proto := range []portmap.Proto{portmap.TCP, portmap.UDP} {
						got, err := call(t, c.from, proto, c.to, soon)
						require.NoError(t, err, "%s %s", proto, c.to)
						if c.seen != "" {
							require.Equal(t, "pod "+c.seen, got, "%s %s", proto, c.to)
						}
					}
				}
				_, err := call(t, w.node, portmap.TCP, "[::1]:8080", soon)
				require.ErrorIs(t, err, unix.ECONNREFUSED)
				_, err = call(t, w.outside, portmap.TCP, "192.0.2.1:8081", soon)
				require.ErrorIs(t, err, unix.ECONNREFUSED)

				require.NoError(t, b.Remove(t.Context(), p.Owner, p.Maps...))
				require.NoError(t, b.Remove(t.Context(), p.Owner))
				_, err = call(t, w.outside, portmap.TCP, "192.0.2.1:8080", soon)
				require.ErrorIs(t, err, unix.ECONNREFUSED)
				require.Equal(t, before, nstest.Dump(w.node))
				value, err := sysctl.Get(w.node, "net/ipv4/conf/br0/route_localnet")
				require.NoError(t, err)
				require.Equal(t, "0", value)
				require.Error(t, b.Check(t.Context(), p))
			})
		}
	}
}

// bridgeFilter sets whether bridged packets pass iptables; false where the kernel cannot.
func bridgeFilter(t *testing.T, ns *netns.NS, value string) bool {
	t.Helper()
	for _, key := range []string{"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"} {
		if _, err := sysctl.Get(ns, key); errors.Is(err, fs.ErrNotExist) {
			return false
		}
		nstest.Sysctl(t, ns, key, value)
	}
	return true
}

func TestAPortOfAnotherContainerIsRefusedWithItsNameUnlessItsDeviceIsGone(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"nftables", "iptables"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			need(t, backend)
			w := newWorld(t, 3)
			b := open(w, backend)
			first, second := pod(0, 8080, portmap.TCP), pod(1, 8080, portmap.TCP)
			require.NoError(t, b.Set(t.Context(), first))
			require.NoError(t, b.Set(t.Context(), first), "again")
			for _, p := range []portmap.Pod{second, on(second, "192.0.2.1"), on(second, "2001:db8::1")} {
				before := nstest.Firewall(t, w.node)
				err := b.Set(t.Context(), p)
				require.ErrorIs(t, err, fs.ErrExist)
				require.ErrorContains(t, err, "8080 is a host port of container c0 (interface eth0, network net)")
				require.Equal(t, before, nstest.Firewall(t, w.node))
			}
			for _, other := range []string{"nftables", "iptables"} {
				if other != backend && len(backends(t, w)) > 1 {
					require.ErrorIs(t, open(w, other).Set(t.Context(), second), fs.ErrExist)
				}
			}
			require.NoError(t, b.Set(t.Context(), pod(1, 8080, portmap.UDP)), "another protocol")
			require.NoError(t, b.Set(t.Context(), on(pod(2, 9090, portmap.TCP), "192.0.2.1")))
			require.ErrorIs(t, b.Set(t.Context(), pod(1, 9090, portmap.TCP)), fs.ErrExist)
			require.NoError(t, b.Set(t.Context(), on(pod(1, 9090, portmap.TCP), "10.1.0.1")), "another address")

			nstest.Run(t, w.node, "ip", "link", "del", "h0")
			require.NoError(t, b.Set(t.Context(), second))
			require.NoError(t, b.Check(t.Context(), second))
			require.NoError(t, b.Remove(t.Context(), first.Owner))
			require.NoError(t, b.Check(t.Context(), second), "a late DEL of the one that is gone takes nothing away")
		})
	}
}

func TestOnlyTheStatedAddressLeadsToThePod(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"nftables", "iptables"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			need(t, backend)
			w := newWorld(t, 2)
			answer(t, w.pods[0], "one")
			answer(t, w.pods[1], "two")
			b := open(w, backend)
			require.NoError(t, b.Set(t.Context(), on(pod(0, 8080, portmap.TCP), "127.0.0.1")))
			require.NoError(t, b.Set(t.Context(), on(pod(1, 8080, portmap.TCP), "192.0.2.1")))
			got, err := call(t, w.node, portmap.TCP, "127.0.0.1:8080", soon)
			require.NoError(t, err)
			require.Equal(t, "one 10.1.0.1", got)
			got, err = call(t, w.outside, portmap.TCP, "192.0.2.1:8080", soon)
			require.NoError(t, err)
			require.Equal(t, "two 192.0.2.2", got)
			_, err = call(t, w.node, portmap.TCP, "10.1.0.1:8080", soon)
			require.ErrorIs(t, err, unix.ECONNREFUSED)
		})
	}
}

func TestSourceNATIsNobodysOrEverybodysWhereThatIsAsked(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"nftables", "iptables"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			need(t, backend)
			w := newWorld(t, 2)
			for i, snat := range []portmap.SNAT{portmap.SNATNone, portmap.SNATAll} {
				answer(t, w.pods[i], "pod")
				p := pod(i, 8080+uint16(i), portmap.TCP)
				p.SNAT = snat
				require.NoError(t, open(w, backend).Set(t.Context(), p))
				require.NoError(t, open(w, backend).Check(t.Context(), p))
			}
			for to, seen := range map[string]string{"192.0.2.1:8080": "192.0.2.2", "[2001:db8::1]:8080": "2001:db8::2", "192.0.2.1:8081": "10.1.0.1", "[2001:db8::1]:8081": "fd00:1::1"} {
				got, err := call(t, w.outside, portmap.TCP, to, soon)
				require.NoError(t, err, to)
				require.Equal(t, "pod "+seen, got, to)
			}
			_, err := call(t, w.node, portmap.TCP, "127.0.0.1:8080", soon)
			require.ErrorIs(t, err, unix.ECONNREFUSED, "who could not be answered is refused")
			got, err := call(t, w.node, portmap.TCP, "127.0.0.1:8081", soon)
			require.NoError(t, err)
			require.Equal(t, "pod 10.1.0.1", got)
		})
	}
}

func TestFlowsOfUDPFollowTheHostPort(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"nftables", "iptables"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			need(t, backend)
			w := newWorld(t, 2)
			answer(t, w.pods[0], "one")
			answer(t, w.pods[1], "two")
			b := open(w, backend)
			for _, to := range []string{"192.0.2.1:53", "[2001:db8::1]:53"} {
				c := udpSocket(t, w.outside, netip.MustParseAddrPort(to), true)
				require.Empty(t, ask(t, c, wait), "nobody has the port: the flow leads nowhere")
				require.NoError(t, b.Set(t.Context(), pod(0, 53, portmap.UDP)))
				require.Contains(t, ask(t, c, soon), "one ")
				require.NoError(t, b.Remove(t.Context(), pod(0, 53).Owner, pod(0, 53, portmap.UDP).Maps...))
				require.Empty(t, ask(t, c, wait), "the pod answers no more, though the sender goes on")
				require.NoError(t, b.Set(t.Context(), pod(1, 53, portmap.UDP)))
				require.Contains(t, ask(t, c, soon), "two ")
				require.NoError(t, b.Remove(t.Context(), pod(1, 53).Owner))
			}
		})
	}
}

func TestGCKeepsTheLiveOnesAndGivesBackTheKernelParameterWithTheLast(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"nftables", "iptables"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			need(t, backend)
			w := newWorld(t, 3)
			b := open(w, backend)
			require.NoError(t, b.Set(t.Context(), pod(0, 8080, portmap.TCP))) // the programs make base chains, which they never remove
			require.NoError(t, b.Remove(t.Context(), pod(0, 0).Owner))
			before := nstest.Firewall(t, w.node)
			for i := range 3 {
				require.NoError(t, b.Set(t.Context(), pod(i, 8080+uint16(i), portmap.TCP)))
			}
			foreign := pod(0, 9000, portmap.TCP)
			foreign.Owner, foreign.Device = "cniblocks/other/c9/eth0", ""
			foreign.Addrs = []netip.Prefix{netip.MustParsePrefix("10.1.0.77/24")}
			foreign.Maps = []portmap.Map{{Proto: portmap.TCP, Host: netip.MustParseAddrPort("0.0.0.0:9000"), Pod: netip.MustParseAddrPort("10.1.0.77:80")}}
			require.NoError(t, b.Set(t.Context(), foreign))
			require.NoError(t, b.Retain(t.Context(), "cniblocks/net/", []string{pod(1, 0).Owner}))
			list, err := b.List(t.Context())
			require.NoError(t, err)
			require.Len(t, list, 2)
			require.Equal(t, []string{"cniblocks/net/c1/eth0", "cniblocks/other/c9/eth0"}, []string{list[0].Owner, list[1].Owner})
			require.ElementsMatch(t, pod(1, 8081, portmap.TCP).Maps, list[0].Maps)
			require.NoError(t, b.Check(t.Context(), pod(1, 8081, portmap.TCP)))
			require.NoError(t, b.Retain(t.Context(), "cniblocks/net/", nil))
			value, err := sysctl.Get(w.node, "net/ipv4/conf/br0/route_localnet")
			require.NoError(t, err)
			require.Equal(t, "1", value, "the other network still needs it")
			require.NoError(t, b.Remove(t.Context(), foreign.Owner))
			value, err = sysctl.Get(w.node, "net/ipv4/conf/br0/route_localnet")
			require.NoError(t, err)
			require.Equal(t, "0", value)
			require.Equal(t, before, nstest.Firewall(t, w.node))
		})
	}
}

func TestCheckNamesWhatIsMissingAndSetMendsIt(t *testing.T) {
	t.Parallel()
	for backend, harms := range map[string][]string{
		"nftables": {
			"nft flush chain inet cniblocks-hostports hostports", "nft flush chain inet cniblocks-hostports output",
			"nft flush map inet cniblocks-hostports any4", "nft flush set inet cniblocks-hostports owners",
			"nft flush chain inet cniblocks-hostports snat/br0/10.1.0.0/24", "nft delete table inet cniblocks-hostports",
			"nft add table inet cniblocks-hostports { flags dormant ; }", "sysctl -qw net.ipv4.conf.br0.route_localnet=0",
		},
		"iptables": {
			"iptables -t nat -F CNIB-HOSTPORT", "iptables -t nat -F PREROUTING", "iptables -t nat -F OUTPUT", "iptables -t nat -F POSTROUTING",
			"ip6tables -t nat -F CNIB-HOSTPORT", "iptables -t nat -F CNIB-HOSTPORT-MASQ",
		},
	} {
		for _, harm := range harms {
			t.Run(harm, func(t *testing.T) {
				t.Parallel()
				need(t, backend)
				w := newWorld(t, 1)
				b, p := open(w, backend), pod(0, 8080, portmap.TCP)
				require.NoError(t, b.Set(t.Context(), p))
				nstest.Run(t, w.node, strings.Fields(harm)...)
				require.Error(t, b.Check(t.Context(), p))
				require.NoError(t, b.Set(t.Context(), p))
				require.NoError(t, b.Check(t.Context(), p))
				require.NoError(t, b.Remove(t.Context(), p.Owner))
				list, err := b.List(t.Context())
				require.NoError(t, err)
				require.Empty(t, list)
			})
		}
	}
}

func TestBadInputIsRefusedBeforeAnyChange(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.NFT)
	ns := nstest.New(t)
	for want, change := range map[string]func(*portmap.Pod){
		"has no owner":           func(p *portmap.Pod) { p.Owner = "" },
		"protocol 1":             func(p *portmap.Pod) { p.Maps[0].Proto = 1 },
		"want ports from 1":      func(p *portmap.Pod) { p.Maps[0].Host = netip.MustParseAddrPort("0.0.0.0:0") },
		"of the pod: want ports": func(p *portmap.Pod) { p.Maps[0].Pod = netip.MustParseAddrPort("10.1.0.2:0") },
		"no address of the pod":  func(p *portmap.Pod) { p.Maps[0].Pod = netip.MustParseAddrPort("10.1.0.9:80") },
		"of the other family":    func(p *portmap.Pod) { p.Maps[0].Host = netip.MustParseAddrPort("[::]:80") },
		"from ::1 to a pod":      func(p *portmap.Pod) { p.Maps[1].Host = netip.MustParseAddrPort("[::1]:80") },
		"without source NAT": func(p *portmap.Pod) {
			p.Maps[0].Host, p.SNAT = netip.MustParseAddrPort("127.0.0.1:80"), portmap.SNATNone
		},
		"want one of a family": func(p *portmap.Pod) { p.Addrs[1] = p.Addrs[0] },
		"leave one out": func(p *portmap.Pod) {
			p.Maps = append(p.Maps, p.Maps[0])
			p.Maps[2].Pod = netip.MustParseAddrPort("10.1.0.2:81")
		},
		"want an address of the no": func(p *portmap.Pod) { p.Maps[0].Host = netip.MustParseAddrPort("224.0.0.1:80") },
	} {
		p := pod(0, 8080, portmap.TCP)
		change(&p)
		for _, b := range []portmap.Backend{portmap.Table{NS: ns}, portmap.IPTables{NS: ns}} {
			require.ErrorContains(t, b.Set(t.Context(), p), want)
			require.ErrorContains(t, b.Check(t.Context(), p), want)
		}
	}
	require.Empty(t, nstest.Ruleset(t, ns))
	_, err := portmap.ParseProto("icmp")
	require.ErrorContains(t, err, `protocol "icmp" is not known`)
	for want, b := range map[string]portmap.IPTables{
		"mark bit 32":        {NS: ns, MarkBit: 32},
		"control characters": {NS: ns, ConditionsV4: []string{"-s\n-A INPUT -j DROP"}},
		"sets a mark":        {NS: ns, SetMarkChain: "A B"},
	} {
		require.ErrorContains(t, b.Set(t.Context(), pod(0, 8080, portmap.TCP)), want)
	}
}

func TestConditionsAndAnotherProgramsMarkAreThoseOfIPTables(t *testing.T) {
	t.Parallel()
	need(t, "iptables")
	w := newWorld(t, 1)
	answer(t, w.pods[0], "pod")
	nstest.Run(t, w.node, "iptables", "-w", "-t", "nat", "-N", "THEIR-MARK")
	nstest.Run(t, w.node, "ip6tables", "-w", "-t", "nat", "-N", "THEIR-MARK")
	b := portmap.IPTables{NS: w.node, SetMarkChain: "THEIR-MARK", ConditionsV4: []string{"!", "-s", "10.1.0.0/24"}, ConditionsV6: []string{"-m", "comment", "--comment", `a "quoted" word`}}
	p := pod(0, 8080, portmap.TCP)
	require.NoError(t, b.Set(t.Context(), p))
	require.NoError(t, b.Check(t.Context(), p))
	_, err := call(t, w.outside, portmap.TCP, "192.0.2.1:8080", soon)
	require.NoError(t, err)
	_, err = call(t, w.pods[0], portmap.TCP, "192.0.2.1:8080", soon)
	require.ErrorIs(t, err, unix.ECONNREFUSED)
	require.Contains(t, nstest.Run(t, w.node, "iptables", "-w", "-t", "nat", "-S"), "-j THEIR-MARK")
	require.NoError(t, b.Remove(t.Context(), p.Owner))
	require.NotContains(t, nstest.Run(t, w.node, "iptables", "-w", "-t", "nat", "-S"), "CNIB")
}

func TestManyPortsStandInOneMap(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.NFT, nstest.Bridge)
	w := newWorld(t, 2)
	answer(t, w.pods[1], "pod")
	p := pod(0, 8080, portmap.TCP)
	for port := range uint16(3000) {
		p.Maps = append(p.Maps, portmap.Map{Proto: portmap.UDP, Host: netip.AddrPortFrom(netip.IPv4Unspecified(), 20000+port), Pod: netip.AddrPortFrom(p.Addrs[0].Addr(), 20000+port)})
	}
	table := portmap.Table{NS: w.node}
	require.NoError(t, table.Set(t.Context(), p))
	require.NoError(t, table.Check(t.Context(), p))
	require.NoError(t, table.Set(t.Context(), pod(1, 80, portmap.TCP)))
	rules := nstest.Run(t, w.node, "nft", "-s", "list", "chain", "inet", "cniblocks-hostports", "hostports")
	require.Equal(t, 6, strings.Count(rules, "dnat")+strings.Count(rules, "return"), "%s", rules)
	_, err := call(t, w.outside, portmap.TCP, "192.0.2.1:80", soon)
	require.NoError(t, err)
	require.NoError(t, table.Remove(t.Context(), p.Owner, p.Maps...))
	require.NoError(t, table.Remove(t.Context(), pod(1, 80).Owner))
	require.Empty(t, nstest.Ruleset(t, w.node))
}

func TestTheParameterStaysAsItWasWhereItWasOn(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"nftables", "iptables"} {
		need(t, backend)
		w := newWorld(t, 1)
		nstest.Sysctl(t, w.node, "net/ipv4/conf/br0/route_localnet", "1")
		b, p := open(w, backend), pod(0, 8080, portmap.TCP)
		require.NoError(t, b.Set(t.Context(), p))
		require.NoError(t, b.Remove(t.Context(), p.Owner))
		value, err := sysctl.Get(w.node, "net/ipv4/conf/br0/route_localnet")
		require.NoError(t, err)
		require.Equal(t, "1", value)
	}
}

func TestPodsOfManyProcessesAtOnceGetTheirPorts(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.NFT, nstest.Bridge)
	w := newWorld(t, 0)
	table := portmap.Table{NS: w.node}
	errs := make(chan error)
	const n = 40
	for i := range n {
		go func() {
			ns, err := netns.Open(fmt.Sprintf("/proc/self/fd/%d", w.node.Fd()))
			if err == nil {
				defer ns.Close()
				p := pod(i, 8080+uint16(i/2), portmap.TCP)
				p.Device = ""
				err = portmap.Table{NS: ns}.Set(t.Context(), p)
			}
			errs <- err
		}()
	}
	var refused int
	for range n {
		if err := <-errs; err != nil {
			require.ErrorIs(t, err, fs.ErrExist)
			refused++
		}
	}
	require.Equal(t, n/2, refused)
	list, err := table.List(t.Context())
	require.NoError(t, err)
	require.Len(t, list, n/2)
}

// legacyPath is a PATH in which iptables is iptables-legacy.
func legacyPath(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"iptables-save", "iptables-restore", "ip6tables-save", "ip6tables-restore"} {
		require.NoError(t, os.Symlink("/usr/sbin/"+strings.Replace(name, "tables", "tables-legacy", 1), filepath.Join(dir, name)))
	}
	return dir
}

func TestTheLegacyTablesServeAsWell(t *testing.T) {
	need(t, "iptables")
	t.Setenv("PATH", legacyPath(t)+":"+os.Getenv("PATH"))
	w := newWorld(t, 2)
	answer(t, w.pods[0], "pod")
	b, p := open(w, "iptables"), pod(0, 8080, portmap.TCP)
	require.NoError(t, b.Set(t.Context(), p))
	require.NoError(t, b.Check(t.Context(), p))
	require.ErrorIs(t, b.Set(t.Context(), pod(1, 8080, portmap.TCP)), fs.ErrExist)
	require.ErrorIs(t, portmap.Table{NS: w.node}.Set(t.Context(), pod(1, 8080, portmap.TCP)), fs.ErrExist)
	_, err := call(t, w.outside, portmap.TCP, "192.0.2.1:8080", soon)
	require.NoError(t, err)
	require.NoError(t, b.Remove(t.Context(), p.Owner))
	require.NotContains(t, nstest.Run(t, w.node, "iptables-legacy", "-w", "-t", "nat", "-S"), "CNIB")
}

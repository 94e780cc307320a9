//go:build linux

package agent_test

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/agent"
	"github.com/cniblocks/cniblocks/internal/test/etcdtest"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/peer/etcd"
)

const (
	configKey  = "/coreos.com/network/config"
	subnetsKey = "/coreos.com/network/subnets/"
)

// byEtcd prepares an agent that follows the network in a store, with a lease of so many seconds.
func (m *machine) byEtcd(s *etcdtest.Server, ttl time.Duration, change ...func(*etcd.Options)) *agent.Agent {
	t := m.w.t
	t.Helper()
	o := etcd.Options{Endpoints: []string{etcdtest.URL}, Dial: s.Dial, TTL: ttl, Timeout: 2 * time.Second,
		StateFile: filepath.Join(m.dir, "lib", "pods", "etcd.json")}
	for _, f := range change {
		f(&o)
	}
	store, err := etcd.New(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	a := m.prepare(store, store, agent.Layout{})
	a.FollowFlannel(store.Config, store.WatchConfig)
	a.Endpoints = agent.Endpoints{Addrs: m.at[:]}
	a.SubnetEnv = filepath.Join(m.dir, "subnet.env")
	a.Expiry = func() time.Time { return store.Status().Expires }
	return a
}

// configs are networks as flannel states them.
var configs = map[string]string{
	"vxlan":            `{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}`,
	"vxlan, two":       `{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:10:244::/48", "Backend": {"Type": "vxlan"}}`,
	"vxlan, IPv6 only": `{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:10:244::/48", "Backend": {"Type": "vxlan"}}`,
	"vxlan, direct":    `{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "DirectRouting": true, "VNI": 77, "Port": 4789}}`,
	"host-gw":          `{"Network": "10.244.0.0/16", "Backend": {"Type": "host-gw"}}`,
	"host-gw, two":     `{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:10:244::/48", "Backend": {"Type": "host-gw"}}`,
	"ipip":             `{"Network": "10.244.0.0/16", "Backend": {"Type": "ipip"}}`,
	"wireguard, two":   `{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:10:244::/48", "Backend": {"Type": "wireguard"}}`,
}

func TestThreeAgentsComeUpAtOnceOnAnEmptyStoreAndTheirPodsReachEachOther(t *testing.T) {
	t.Parallel()
	for name, config := range configs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kind, _, _ := strings.Cut(name, ",")
			if kind != "host-gw" {
				nstest.Need(t, nstest.Feature(kind))
			}
			s := etcdtest.New(t)
			s.Ctl(t, "put", configKey, config)
			w := newWorld(t, 3)
			for _, m := range w.machines {
				m.byEtcd(s, 0)
				m.run()
			}
			taken := map[netip.Prefix]string{}
			for _, m := range w.machines {
				m.ready()
				m.pods = m.Status().Ranges
				for _, r := range m.pods {
					require.Empty(t, taken[r], r)
					taken[r] = m.name
				}
				env, err := os.ReadFile(m.SubnetEnv)
				require.NoError(t, err)
				require.Contains(t, string(env), fmt.Sprintf("FLANNEL_MTU=%d\nFLANNEL_IPMASQ=true\n", m.Status().MTU))
				m.attach(m.pods...)
			}
			require.Eventually(t, func() bool {
				return !slices.ContainsFunc(w.machines, func(m *machine) bool { return m.Status().Peers != 3 })
			}, soon, 5*time.Millisecond)
			w.reachAll()
		})
	}
}

func TestANodeWhoseLeaseExpiredIsForgottenAndOneThatReturnsInTimeHasItsRangeAndMAC(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	s := etcdtest.New(t)
	s.Ctl(t, "put", configKey, configs["vxlan"])
	w := newWorld(t, 2)
	a, b := w.machines[0], w.machines[1]
	for _, m := range w.machines {
		m.byEtcd(s, 3*time.Second)
		m.run()
		m.ready()
	}
	require.Eventually(t, func() bool { return a.Status().Routes == 1 }, soon, time.Millisecond)
	was, mac := b.Status().Ranges, in(t, b.ns, "cat /sys/class/net/flannel.1/address || ip -o link show flannel.1 | grep -o 'ether [^ ]*'")

	leases := func() []string { return strings.Fields(s.Ctl(t, "lease", "list")) } // that which ends first comes first
	said, held := quiet(t, a.ns), leases()
	until(t, "two renewals", func() bool { return time.Until(a.Expiry()) > 0 && time.Since(a.Status().Started) > 6*time.Second })
	require.Empty(t, said(), "renewal writes nothing to a kernel")
	require.ElementsMatch(t, held, leases())

	b.stop()
	b.byEtcd(s, 3*time.Second)
	b.run()
	b.ready()
	require.Equal(t, was, b.Status().Ranges)

	b.stop()
	require.Eventually(t, func() bool { return a.Status().Routes == 0 && a.Status().Peers == 1 }, soon, 10*time.Millisecond)
	require.NotContains(t, in(t, a.ns, "bridge fdb show dev flannel.1"), b.at[0].String())

	// A reboot: the device and what does not outlive it are gone.
	in(t, b.ns, "ip link del flannel.1")
	require.NoError(t, os.RemoveAll(b.StateDir))
	b.byEtcd(s, 3*time.Second)
	b.run()
	b.ready()
	require.Equal(t, was, b.Status().Ranges)
	require.Equal(t, mac, in(t, b.ns, "cat /sys/class/net/flannel.1/address || ip -o link show flannel.1 | grep -o 'ether [^ ]*'"))
	require.Eventually(t, func() bool { return a.Status().Routes == 1 }, soon, time.Millisecond)
}

func TestWithoutTheStoreNoRouteIsLostWhateverHappens(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	s := etcdtest.New(t)
	s.Ctl(t, "put", configKey, configs["vxlan, two"])
	w := newWorld(t, 3)
	for _, m := range w.machines {
		m.byEtcd(s, 0)
		m.run()
	}
	for _, m := range w.machines {
		m.ready()
		m.pods = m.Status().Ranges
		m.attach(m.pods...)
	}
	a := w.machines[0]
	require.Eventually(t, func() bool { return a.Status().Routes == 4 }, soon, time.Millisecond)
	time.Sleep(3 * heartbeat) // until the list is on disk
	want := a.state()

	s.Stop(t)
	require.Eventually(t, func() bool { return a.Status().Source.Error != "" }, soon, 10*time.Millisecond)
	require.True(t, a.Status().Ready, "the state is right, though the store is away")
	require.Equal(t, want, a.state())
	in(t, a.ns, "ip route flush proto 117; ip link del flannel.1; ip link set flannel-v6.1 down")
	a.mended(want, "a flush while the store is away")

	a.stop() // a restart, and then a reboot, while the store is away
	a.byEtcd(s, 0)
	a.run()
	a.ready()
	require.True(t, a.Status().Source.FromDisk)
	require.Equal(t, want, a.state())
	a.stop()
	in(t, a.ns, "ip link del flannel.1; ip link del flannel-v6.1; nft flush ruleset")
	require.NoError(t, os.RemoveAll(a.StateDir))
	a.byEtcd(s, 0)
	a.run()
	a.ready()
	require.Equal(t, want, a.state())
	w.reachAll()

	begin := time.Now()
	s.Start(t)
	require.Eventually(t, func() bool { return a.Status().Source.Up && !a.Status().Source.FromDisk }, soon, time.Millisecond)
	t.Logf("the source is back %s after the store's start", time.Since(begin))
	require.Equal(t, want, a.state())
	key := "10.244.99.0-24"
	begin = time.Now()
	s.Ctl(t, "put", subnetsKey+key, `{"PublicIP":"192.0.2.99","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:99"}}`)
	require.Eventually(t, func() bool { return strings.Contains(a.state(), "10.244.99.0/24") }, soon, time.Millisecond)
	t.Logf("a new lease is in the kernel %s after etcdctl began to write it", time.Since(begin))
}

func TestAChangedConfigurationIsToldWithTheRemedyAndUsedByTheNextAgent(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	s := etcdtest.New(t)
	s.Ctl(t, "put", configKey, configs["vxlan"])
	s.Ctl(t, "put", subnetsKey+"10.244.99.0-24", `{"PublicIP":"192.0.2.99","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:99"}}`)
	m := newWorld(t, 1).machines[0]
	m.byEtcd(s, 0)
	said := m.saying()
	m.run()
	m.ready()
	want := m.state()
	reasons := func() string { return strings.Join(m.Status().Reasons, "\n") }
	const changed = "has changed since this agent started, which goes on as it began: restart the agent to use it"

	s.Ctl(t, "put", configKey, strings.ReplaceAll(configs["vxlan"], " ", "  ")) // means the same
	for range 2 {
		s.Ctl(t, "put", configKey, configs["host-gw"])
		until(t, "another backend", func() bool { return strings.Contains(reasons(), changed) })
		s.Ctl(t, "put", configKey, strings.ReplaceAll(configs["host-gw"], "10.244", "10.99")) // which no peer is in
	}
	s.Stop(t)
	until(t, "the store is gone", func() bool { return m.Status().Source.Error != "" })
	s.Start(t)
	until(t, "it is back", func() bool { return m.Status().Source.Error == "" })
	require.Contains(t, reasons(), changed)
	require.True(t, m.Status().Ready)
	require.Equal(t, want, m.state(), "all goes on")
	require.Equal(t, 1, strings.Count(said(), changed), "told once: %s", said())

	s.Ctl(t, "put", configKey, "{")
	until(t, "one that is none", func() bool {
		return strings.Contains(reasons(), "cannot be used; this agent goes on as it began, and would not start again")
	})
	s.Ctl(t, "put", configKey, configs["vxlan"])
	until(t, "the first one", func() bool { return reasons() == "" })
	require.Equal(t, want, m.state())

	s.Ctl(t, "put", configKey, configs["host-gw"])
	until(t, "another backend", func() bool { return strings.Contains(reasons(), changed) })
	m.stop()
	m.byEtcd(s, 0)
	m.run()
	m.ready()
	require.Equal(t, "host-gw", m.Status().Tunnels[0].Encap)
	require.Empty(t, reasons())
}

func TestAnAgentWhoseUserIsUnknownGoesOnAsSoonAsTheStoreKnowsHim(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	s := etcdtest.New(t)
	s.Ctl(t, "put", configKey, configs["vxlan"])
	for _, args := range []string{"role add node", "role grant-permission --prefix=true node readwrite /", "user add root:root-secret", "user grant-role root root", "auth enable"} {
		s.Ctl(t, strings.Fields(args)...)
	}
	root := func(args string) {
		s.Ctl(t, append([]string{"--user", "root:root-secret"}, strings.Fields(args)...)...)
	}
	m := newWorld(t, 1).machines[0]
	m.byEtcd(s, 0, func(o *etcd.Options) { o.Username, o.Password = "node", "node-secret" })
	m.run()
	refused := func() bool { return strings.Contains(strings.Join(m.Status().Reasons, "\n"), "authentication failed") }
	until(t, "a refusal", refused)
	time.Sleep(8 * time.Second) // the pauses between the tries grow meanwhile
	until(t, "another refusal", refused)
	require.False(t, m.Status().Ready)
	root("user add node:node-secret")
	root("user grant-role node node")
	until(t, "a range", func() bool { s := m.Status(); return s.Ready && len(s.Reasons) == 0 })
}

// oneWithAPod is a node that runs, and the lease of a pod that has an address of its range.
func oneWithAPod(t *testing.T) (s *etcdtest.Server, m *machine, lease string) {
	t.Helper()
	s = etcdtest.New(t)
	s.Ctl(t, "put", configKey, configs["vxlan"])
	m = newWorld(t, 1).machines[0]
	m.byEtcd(s, 0)
	m.run()
	m.ready()
	lease = filepath.Join(m.LeaseDir, "pods", m.Status().Ranges[0].Addr().Next().Next().String())
	require.NoError(t, os.MkdirAll(filepath.Dir(lease), 0o755))
	require.NoError(t, os.WriteFile(lease, []byte("c1\r\neth0"), 0o600))
	return s, m, lease
}

func TestARangeThatAnotherTookIsErrorUntilNoPodUsesItAndThenThereIsANewOne(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	s, m, lease := oneWithAPod(t)
	own := m.Status().Ranges[0]

	s.Ctl(t, "put", subnetsKey+strings.ReplaceAll(own.String(), "/", "-"),
		`{"PublicIP":"192.0.2.99","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:99"}}`)
	require.Eventually(t, func() bool { return strings.Contains(strings.Join(m.Status().Reasons, " "), "drain this node") }, soon, 10*time.Millisecond, "%+v", m.Status())
	require.False(t, m.Status().Ready)
	require.Equal(t, []netip.Prefix{own}, m.Status().Ranges)
	until(t, "the node file", func() bool {
		return m.file().Blocked == "the ranges "+own.String()+" are no longer this node's; 'cniblocks status' tells more"
	})
	require.Contains(t, strings.Join(m.Status().Reasons, " "), "; the node at 192.0.2.99 has them now")

	require.NoError(t, os.Remove(lease))
	m.ready()
	require.NotEqual(t, own, m.Status().Ranges[0])
	require.Empty(t, m.file().Blocked)
	require.Equal(t, m.Status().Ranges, m.file().Self.Pods)
}

func TestALeaseThatVanishedIsTakenAgainThoughPodsUseIt(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	s, m, _ := oneWithAPod(t)
	own := m.Status().Ranges
	s.Ctl(t, "del", "--prefix", subnetsKey)
	require.Eventually(t, func() bool { return m.Status().LostRuns == 1 && m.Status().Ready }, soon, 10*time.Millisecond)
	require.Equal(t, own, m.Status().Ranges)
	require.Contains(t, s.Ctl(t, "get", "--prefix", "--keys-only", subnetsKey), strings.ReplaceAll(own[0].String(), "/", "-"))
}

func TestAPeerOfAnotherBackendAndABadLeaseCostNobodyElse(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN)
	s := etcdtest.New(t)
	s.Ctl(t, "put", configKey, configs["vxlan"])
	s.Ctl(t, "put", subnetsKey+"10.244.50.0-24", `{"PublicIP":"192.0.2.50","BackendType":"host-gw"}`)
	s.Ctl(t, "put", subnetsKey+"10.244.51.0-24", `{"PublicIP":"192.0.2.51","BackendType":"smoke signals"}`)
	s.Ctl(t, "put", subnetsKey+"10.244.52.0-24", `{"PublicIP":`)
	s.Ctl(t, "put", subnetsKey+"10.244.53.0-24", `{"PublicIP":"192.0.2.53","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:53"}}`)
	w := newWorld(t, 1)
	m := w.machines[0]
	m.byEtcd(s, 0)
	m.run()
	m.ready()
	require.Equal(t, 1, m.Status().Routes)
	require.Contains(t, in(t, m.ns, "ip route show proto 117"), "10.244.53.0/24")
	require.Contains(t, strings.Join(m.Status().Refused, "\n"), "host-gw")
	for _, key := range []string{"10.244.51.0-24", "10.244.52.0-24"} {
		require.Contains(t, strings.Join(m.Status().Source.Why, "\n"), key)
	}
}

func TestAnEntryOfTheSourceThatIsLeftOutIsCountedWithItsReasonAndTheSourceIsUp(t *testing.T) {
	t.Parallel()
	s := etcdtest.New(t)
	s.Ctl(t, "put", configKey, configs["host-gw"])
	w := newWorld(t, 2)
	a, b := w.machines[0], w.machines[1]
	a.byEtcd(s, 0)
	said := a.logging(slog.LevelInfo)
	path := filepath.Join(t.TempDir(), "agent.sock")
	l, err := agent.Listen("unix:" + path)
	require.NoError(t, err)
	go func() { _ = a.Serve(t.Context(), l) }()
	a.run()
	a.ready()
	s.Ctl(t, "put", subnetsKey+"README", "leases of nodes")
	until(t, "the junk", func() bool { return a.Status().Source.LeftOut == 1 })
	b.byEtcd(s, 0)
	b.run()
	b.ready()
	until(t, "the peer", func() bool { return a.Status().Routes == 1 })
	st := a.Status()
	require.True(t, st.Ready)
	require.Empty(t, st.Reasons)
	require.True(t, st.Source.Up)
	require.Zero(t, st.Source.Lag)
	require.Empty(t, st.Source.Error)
	require.Contains(t, st.Source.Why[0], `lease README: key "README" names no range`)
	_, text := get(t, path, "/metrics")
	for _, line := range []string{"cniblocks_source_up 1\n", "cniblocks_source_lag_seconds 0\n", "cniblocks_source_left_out{key=\"key\"} 1\n", "cniblocks_peers_joined_total 1\n"} {
		require.Contains(t, text, line)
	}
	require.Equal(t, 1, strings.Count(said(), "an entry of the source is left out"), said())
	require.Contains(t, said(), `"a peer has joined"`)

	b.stop()
	s.Ctl(t, "del", subnetsKey+"README")
	s.Ctl(t, "del", subnetsKey+strings.ReplaceAll(b.Status().Ranges[0].String(), "/", "-"))
	until(t, "both gone", func() bool { return a.Status().Routes == 0 && a.Status().Source.LeftOut == 0 })
	require.Contains(t, said(), `"a peer has left" peer=192.0.2.12`)
	require.Contains(t, said(), "an entry of the source is no longer left out")
	_, text = get(t, path, "/metrics")
	require.Contains(t, text, "cniblocks_peers_left_total 1\n")
	require.NotContains(t, text, "cniblocks_source_left_out{")
}

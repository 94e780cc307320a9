//go:build linux

package agent_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/etcdtest"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

// leftByFlannel is a node of a flannel network, as flanneld leaves it when it is stopped: the commands that make it.
const leftByFlannel = `ip link add flannel.1 address 02:00:00:00:00:aa mtu 1450 type vxlan id 1 dev eth0 local 192.0.2.11 dstport 8472 nolearning
ip addr add 10.244.7.0/32 dev flannel.1; ip link set flannel.1 up
ip route add 10.244.8.0/24 via 10.244.8.0 dev flannel.1 onlink
ip route add 10.244.9.0/24 via 10.244.9.0 dev flannel.1 onlink
ip neigh add 10.244.8.0 lladdr 02:00:00:00:00:bb dev flannel.1 nud permanent
ip neigh add 10.244.9.0 lladdr 02:00:00:00:00:cc dev flannel.1 nud permanent
bridge fdb add 02:00:00:00:00:bb dev flannel.1 dst 192.0.2.12 self permanent
bridge fdb add 02:00:00:00:00:cc dev flannel.1 dst 192.0.2.13 self permanent
ip link add cni0 type bridge; ip addr add 10.244.7.1/24 dev cni0; ip link set cni0 up
iptables -w -t nat -N FLANNEL-POSTRTG; iptables -w -t nat -A POSTROUTING -m comment --comment flanneld -j FLANNEL-POSTRTG
iptables -w -t nat -A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE
iptables -w -N FLANNEL-FWD; iptables -w -A FORWARD -j FLANNEL-FWD; iptables -w -A FLANNEL-FWD -s 10.244.0.0/16 -j ACCEPT`

func TestWhatFlannelMadeIsTakenOverInPlace(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.VXLAN, nstest.IPTables, nstest.NFT)
	s := etcdtest.New(t)
	s.Ctl(t, "put", configKey, configs["vxlan"])
	s.Ctl(t, "put", subnetsKey+"10.244.7.0-24", `{"PublicIP":"192.0.2.11","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:aa"}}`)
	s.Ctl(t, "put", subnetsKey+"10.244.8.0-24", `{"PublicIP":"192.0.2.12","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:bb"}}`)
	w := newWorld(t, 2)
	m := w.machines[0]
	in(t, m.ns, leftByFlannel)
	index := in(t, m.ns, "cat /proc/net/dev_snmp6/flannel.1 2>/dev/null | head -1; ip -o link show flannel.1 | cut -d: -f1")

	m.byEtcd(s, 0)
	m.run()
	require.Eventually(t, func() bool {
		return strings.Contains(strings.Join(m.Status().Reasons, " "), "device flannel.1 (kind vxlan) is not ours")
	}, soon, time.Millisecond)
	m.stop()

	a := m.byEtcd(s, 0)
	a.Adopt = true
	m.run()
	m.ready()
	require.Equal(t, "10.244.7.0/24", m.Status().Ranges[0].String())
	require.Equal(t, index, in(t, m.ns, "cat /proc/net/dev_snmp6/flannel.1 2>/dev/null | head -1; ip -o link show flannel.1 | cut -d: -f1"), "the device is the same")
	link := in(t, m.ns, "ip -d link show flannel.1")
	require.Contains(t, link, "02:00:00:00:00:aa")
	require.Contains(t, link, "alias cniblocks/pods")
	require.Contains(t, in(t, m.ns, "ip -d link show cni0"), "alias cniblocks/pods")
	routes := in(t, m.ns, "ip route show dev flannel.1")
	require.Contains(t, routes, "10.244.8.0/24 via 10.244.8.0 proto 117")
	require.NotContains(t, routes, "10.244.9.0/24", "a peer that left meanwhile")
	require.Equal(t, 1, strings.Count(routes, "10.244.8.0/24"), routes)
	entries := in(t, m.ns, "bridge fdb show dev flannel.1; ip neigh show dev flannel.1")
	require.Contains(t, entries, "02:00:00:00:00:bb dst 192.0.2.12")
	require.NotContains(t, entries, "02:00:00:00:00:cc")
	require.NotContains(t, in(t, m.ns, "iptables-save"), "FLANNEL")
	require.Contains(t, in(t, m.ns, "nft list table inet cniblocks"), "10.244.7.2-10.244.7.255")
	require.Contains(t, s.Ctl(t, "get", subnetsKey+"10.244.7.0-24"), "02:00:00:00:00:aa")

	m.stop()
	said := quiet(t, m.ns)
	m.byEtcd(s, 0) // without Adopt: it is ours now
	m.run()
	m.ready()
	require.Empty(t, said())
}

func TestAnAgentDoesNotStartBesideAFlanneld(t *testing.T) {
	t.Parallel()
	s := etcdtest.New(t)
	w := newWorld(t, 1)
	m := w.machines[0]
	sleep, err := exec.LookPath("sleep")
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "flanneld")
	require.NoError(t, os.Symlink(sleep, path))
	cmd := exec.Command(path, "60")
	require.NoError(t, m.ns.Do(cmd.Start))
	defer func() {
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
	}()
	require.ErrorContains(t, m.byEtcd(s, 0).Run(context.Background()), "flanneld runs on this node")
}

//go:build linux

package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/binaries"
	"github.com/cniblocks/cniblocks/internal/test/machine"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/reference"
	"github.com/cniblocks/cniblocks/plugins/bridge"
	"github.com/cniblocks/cniblocks/plugins/flannel"
	"github.com/cniblocks/cniblocks/plugins/hostlocal"
	"github.com/cniblocks/cniblocks/plugins/loopback"
	"github.com/cniblocks/cniblocks/plugins/overlay"
)

const hostLocal = `"ipam":{"type":"host-local","dataDir":"DIR","ranges":[[{"subnet":"10.1.2.0/24"}],[{"subnet":"fd00:1:2::/64"}]]}`

func bridged(keys string) string {
	return `{"cniVersion":"1.1.0","name":"net","type":"bridge","bridge":"br0",` + keys + `}`
}

func carried(keys string) string {
	return `{"cniVersion":"1.1.0","name":"net",` + keys + `,"ipMasq":true,"stateDir":"DIR/run","dataDir":"DIR/lib","network":["10.244.0.0/16","fd00:10:244::/48"],
		"peers":[{"name":"a","endpoint":["192.0.2.11","2001:db8::11"],"pods":["10.244.1.0/24","fd00:10:244:1::/64"]},
		{"name":"b","endpoint":["192.0.2.12","2001:db8::12"],"pods":["10.244.2.0/24","fd00:10:244:2::/64"],"publicKey":"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="}],
		"delegate":{"type":"bridge","bridge":"br0","isDefaultGateway":true,"ipam":{"type":"host-local","dataDir":"DIR"}}}`
}

var linkedIn = cni.Delegates{"bridge": bridge.Plugin{}, "host-local": hostlocal.Plugin{}, "overlay": overlay.Plugin{}, "host-gw": overlay.Plugin{},
	"loopback": loopback.Plugin{}, "flannel": flannel.Plugin{}}

// uses are the ways to use the plugins, with what not every kernel has.
var uses = map[string]struct {
	conf  string
	needs []nstest.Feature
}{
	"bridge":             {bridged(`"isDefaultGateway":true,"ipMasq":true,` + hostLocal), nil},
	"bridge, iptables":   {bridged(`"isGateway":true,"ipMasq":true,"ipMasqBackend":"iptables",` + hostLocal), []nstest.Feature{nstest.IPTables, nstest.IP6Tables}},
	"bridge, guarded":    {bridged(`"isGateway":true,"macspoofchk":true,"hairpinMode":true,` + hostLocal), []nstest.Feature{nstest.NFTBridge}},
	"bridge, layer 2":    {bridged(`"mtu":1400,"portIsolation":true`), nil},
	"bridge, static":     {bridged(`"isGateway":true,"ipMasq":true,"ipam":{"type":"static","addresses":[{"address":"10.1.2.LAST/24","gateway":"10.1.2.1"}]}`), nil},
	"bridge, VLAN":       {bridged(`"isDefaultGateway":true,"ipMasq":true,"vlan":7,` + hostLocal), []nstest.Feature{nstest.VLANFiltering}},
	"bridge, trunk":      {bridged(`"vlan":7,"vlanTrunk":[{"minID":9,"maxID":12}]`), []nstest.Feature{nstest.VLANFiltering}},
	"bridge of others":   {strings.ReplaceAll(bridged(`"isGateway":true,"ipMasq":true,`+hostLocal), "br0", "foreign"), nil},
	"host-gw":            {carried(`"type":"host-gw"`), nil},
	"vxlan":              {carried(`"type":"overlay","encap":"vxlan"`), []nstest.Feature{nstest.VXLAN}},
	"vxlan, layer 2":     {carried(`"type":"overlay","encap":"vxlan","l2":true`), []nstest.Feature{nstest.VXLAN}},
	"vxlan, direct":      {carried(`"type":"overlay","encap":"vxlan","directRouting":true`), []nstest.Feature{nstest.VXLAN}},
	"gre":                {carried(`"type":"overlay","encap":"gre"`), []nstest.Feature{nstest.GRE}},
	"gre, a device each": {carried(`"type":"overlay","encap":"gre","mode":"point-to-point"`), []nstest.Feature{nstest.GRE}},
	"ipip":               {carried(`"type":"overlay","encap":"ipip"`), []nstest.Feature{nstest.IPIP, nstest.SIT}},
	"geneve":             {carried(`"type":"overlay","encap":"geneve"`), []nstest.Feature{nstest.Geneve}},
	"wireguard":          {carried(`"type":"overlay","encap":"wireguard"`), []nstest.Feature{nstest.WireGuard}},
	"flannel": {`{"cniVersion":"1.1.0","name":"net","type":"flannel","subnetFile":"DIR/subnet.env","dataDir":"DIR/flannel",
		"ipam":{"dataDir":"DIR"},"delegate":{"isDefaultGateway":true}}`, nil},
	"loopback": {`{"cniVersion":"1.1.0","name":"net","type":"loopback"}`, nil},
}

func TestCleanupAfterEveryUseLeavesNothingOfOursAndAllOfOthers(t *testing.T) {
	t.Parallel()
	static, err := reference.Build("static")
	require.NoError(t, err)
	bin := t.TempDir() // without the reference's bridge
	require.NoError(t, os.Symlink(filepath.Join(static, "static"), filepath.Join(bin, "static")))
	for name, use := range uses {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nstest.Need(t, use.needs...)
			m := machine.Linked(t, linkedIn)
			m.Path = bin
			m.SubnetEnv(t)
			foreign(t, m)
			before, files := nstest.Dump(m.NS), m.Files(t)
			ns := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), m.NS.Fd())
			args := []string{"cleanup", "--netns", ns, "--data-dir", m.Dir, "--data-dir", m.Dir + "/flannel", "--state-dir", filepath.Join(m.Dir, "run")}

			addPod(t, m, use.conf)
			used := nstest.Dump(m.NS)
			status, said, errs := call(t, append(args, "--network", "other")...)
			require.Equal(t, failed, status, said)
			require.Contains(t, errs, `there is no trace of a network "other" here`)
			status, would, errs := call(t, append(args, "--network", "net", "--dry-run")...)
			if name == "loopback" {
				require.Equal(t, failed, status, "it leaves no trace")
				require.Contains(t, errs, `there is no trace of a network "net" here`)
				return
			}
			require.Zero(t, status, errs)
			require.Equal(t, used, nstest.Dump(m.NS), "a dry run changes nothing")
			status, did, errs := call(t, append(args, "--network", "net")...)
			require.Zero(t, status, errs)
			require.Equal(t, strings.ReplaceAll(would, "would remove", "removed"), did)
			require.Equal(t, before, nstest.Dump(m.NS), "%s", did)
			if name == "bridge of others" { // a port whose pod nobody knows may hold the lease that was lost
				require.Contains(t, did, "vethforeign may hold them")
				return
			}
			require.Equal(t, files, withoutKeys(m.Files(t)), "%s", did)

			addPod(t, m, use.conf) // it can be used again
			status, did, errs = call(t, append(args, "--all")...)
			require.Zero(t, status, errs)
			require.Equal(t, before, nstest.Dump(m.NS), "%s", did)
			require.Equal(t, files, withoutKeys(m.Files(t)), "%s", did)
		})
	}
}

// attach adds two pods that live, one whose namespace goes, and one that goes as it should.
func addPod(t *testing.T, m *machine.Machine, conf string) {
	t.Helper()
	for i, id := range []string{"one", "two", "lost", "gone"} {
		p, err := m.Pod(id)
		require.NoError(t, err)
		end := sync.OnceValue(p.NS.Close)
		t.Cleanup(func() { require.NoError(t, end()) })
		c := machine.Call{Verb: cni.ADD, ID: id, NetNS: p.Path, Conf: strings.NewReplacer("DIR", m.Dir, "LAST", fmt.Sprint(20+i)).Replace(conf)}
		_, err = m.Do(t.Context(), c)
		require.NoError(t, err)
		if id == "gone" {
			c.Verb = cni.DEL
			_, err = m.Do(t.Context(), c)
			require.NoError(t, err)
		}
		require.NoError(t, os.Remove(p.Path)) // the next round takes the name again
		if id == "gone" || id == "lost" {
			require.NoError(t, end())
		}
	}
	// The kernel takes the interfaces of a namespace some time after it.
	require.Eventually(t, func() bool { return !strings.Contains(nstest.DumpLinks(m.NS), "/lost/") }, 30*time.Second, 10*time.Millisecond)
	nstest.Settle(t, m.NS)
}

// withoutKeys passes over the private keys, which stay on purpose, and over directories that others have, too.
func withoutKeys(files []string) (rest []string) {
	for _, f := range files {
		if f != "/run" && f != "/flannel" && f != "/lib" && !strings.HasPrefix(f, "/lib/") {
			rest = append(rest, f)
		}
	}
	return rest
}

// foreign makes what others have on a machine: a bridge with a port, addresses, routes, neighbours, rules of both filters,
// leases of the reference.
func foreign(t *testing.T, m *machine.Machine) {
	t.Helper()
	h := nstest.Netlink(t, m.NS)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "foreign"
	attrs.HardwareAddr = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	require.NoError(t, h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	br, err := h.LinkByName("foreign")
	require.NoError(t, err)
	require.NoError(t, h.LinkSetUp(br))
	nstest.AddAddrs(t, m.NS, "uplink", "10.77.0.1/24", "fd00:77::1/64")
	nstest.Link(t, nstest.End{NS: m.NS, Name: "vethforeign"}, nstest.End{NS: nstest.New(t), Name: "eth0"})
	port, err := h.LinkByName("vethforeign")
	require.NoError(t, err)
	require.NoError(t, h.LinkSetMaster(port, br))
	nstest.AddRoute(t, m.NS, "198.51.100.0/24", "192.0.2.2")
	nstest.AddRoute(t, m.NS, "10.244.99.0/24", "192.0.2.2")
	uplink, err := h.LinkByName("uplink")
	require.NoError(t, err)
	require.NoError(t, h.NeighAdd(&netlink.Neigh{LinkIndex: uplink.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.IPv4(10, 77, 0, 9),
		HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}}))
	for _, argv := range [][]string{
		{"nft", `add table inet cniblocked; add chain inet cniblocked c { type nat hook postrouting priority 100; }; add rule inet cniblocked c ip saddr 10.1.2.0/24 masquerade comment "cniblock"`},
		{"iptables", "-w", "-t", "nat", "-N", "CNI-foreign"}, {"iptables", "-w", "-t", "nat", "-A", "POSTROUTING", "-s", "10.1.2.0/24", "-j", "CNI-foreign"},
		{"ip6tables", "-w", "-t", "nat", "-N", "CNI-foreign"}, {"ip6tables", "-w", "-t", "nat", "-A", "POSTROUTING", "-s", "fd00:1:2::/64", "-j", "CNI-foreign"},
	} {
		path, err := exec.LookPath(argv[0])
		require.NoError(t, err)
		var out bytes.Buffer
		cmd := exec.Command(path, argv[1:]...)
		cmd.Stdout, cmd.Stderr = &out, &out
		require.NoError(t, m.NS.Do(cmd.Run), "%s", &out)
	}
	require.NoError(t, os.Mkdir(filepath.Join(m.Dir, "theirs"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(m.Dir, "theirs", "10.9.0.5"), []byte("old\r\neth0"), 0o644))
	nstest.Settle(t, m.NS)
}

func TestMakeUninstallRemovesWhatMakeInstallMadeAndNothingElse(t *testing.T) {
	t.Parallel()
	make, err := exec.LookPath("make")
	if err != nil {
		t.Skip("lane: needs the program make")
	}
	m := machine.New(t)
	program, err := binaries.Command()
	require.NoError(t, err)
	checkout, dest := t.TempDir(), t.TempDir()
	makefile, err := os.ReadFile("../../Makefile")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(checkout, "Makefile"), makefile, 0o600))
	require.NoError(t, os.CopyFS(filepath.Join(checkout, "bin"), os.DirFS(m.Bin)))
	require.NoError(t, os.Symlink(program, filepath.Join(checkout, "bin/cniblocks")))
	run := func(args ...string) {
		t.Helper()
		out, err := exec.Command(make, append(args, "-C", checkout, "DESTDIR="+dest)...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	files := func() (all []string) {
		require.NoError(t, filepath.WalkDir(dest, func(path string, e os.DirEntry, err error) error {
			if err == nil && !e.IsDir() {
				all = append(all, strings.TrimPrefix(path, dest+"/"))
			}
			return err
		}))
		return all
	}
	run("-o", "build", "install")
	share := "usr/local/share/"
	for _, path := range []string{"opt/cni/bin/bridge", "opt/cni/bin/flannel", "usr/local/bin/cniblocks", "etc/iproute2/rt_protos.d/cniblocks.conf",
		share + "man/man8/cniblocks.8", share + "man/man8/cniblocks-agent.8", share + "man/man5/cniblocks-agent.json.5",
		share + "bash-completion/completions/cniblocks", share + "zsh/site-functions/_cniblocks", share + "fish/vendor_completions.d/cniblocks.fish"} {
		require.Contains(t, files(), path)
	}
	others := []string{"opt/cni/bin/whereabouts", "opt/cni/bin/multus", "etc/iproute2/rt_protos.d/other.conf", "usr/local/bin/cniblocks-tool",
		share + "man/man8/cniblocks-tool.8", share + "man/man8/ip.8"}
	for _, path := range others {
		require.NoError(t, os.WriteFile(filepath.Join(dest, path), []byte("#!/bin/sh\n# cniblocks is mentioned here\n"), 0o755))
	}
	run("uninstall")
	require.ElementsMatch(t, others, files())
}

//go:build linux

package malice

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/binaries"
	"github.com/cniblocks/cniblocks/internal/test/machine"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m, binaries.Remove) }

// confs are one configuration of each kind.
func confs(dir string) map[string]string {
	all := map[string]string{
		"bridge": `{"cniVersion":"1.1.0","name":"net","type":"bridge","bridge":"br0","isDefaultGateway":true,"ipMasq":true,
			"ipam":{"type":"host-local","dataDir":"DIR","ranges":[[{"subnet":"10.1.2.0/24"}],[{"subnet":"fd00:1:2::/64"}]]}}`,
		"iptables": `{"cniVersion":"1.1.0","name":"net","type":"bridge","bridge":"br0","isGateway":true,"ipMasq":true,"ipMasqBackend":"iptables",
			"macspoofchk":true,"ipam":{"type":"host-local","dataDir":"DIR","subnet":"10.1.2.0/24"}}`,
		"host-gw": overlaid(`"type":"host-gw"`),
		"overlay": overlaid(`"type":"overlay","encap":"vxlan"`),
		"flannel": `{"cniVersion":"1.1.0","name":"net","type":"flannel","subnetFile":"DIR/subnet.env","dataDir":"DIR/flannel",
			"ipam":{"dataDir":"DIR"},"delegate":{"isDefaultGateway":true}}`,
		"loopback": `{"cniVersion":"1.1.0","name":"net","type":"loopback"}`,
	}
	for name, conf := range all {
		all[name] = strings.ReplaceAll(conf, "DIR", dir)
	}
	return all
}

func overlaid(keys string) string {
	return `{"cniVersion":"1.1.0","name":"net",` + keys + `,"ipMasq":true,"stateDir":"DIR/run","dataDir":"DIR/lib","network":["10.244.0.0/16"],
		"peers":[{"name":"a","endpoint":"192.0.2.11","pods":"10.244.1.0/24"},{"name":"b","endpoint":"192.0.2.12","pods":"10.244.2.0/24"}],
		"delegate":{"type":"bridge","isDefaultGateway":true,"ipam":{"type":"host-local","dataDir":"DIR"}}}`
}

// needs are what not every kernel has.
func needs(t *testing.T, name string) {
	t.Helper()
	switch name {
	case "overlay":
		nstest.Need(t, nstest.VXLAN)
	case "iptables":
		nstest.Need(t, nstest.IPTables, nstest.NFTBridge)
	}
}

func pod(t *testing.T, m *machine.Machine, name string) machine.Pod {
	t.Helper()
	p, err := m.Pod(name)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	nstest.Sysctl(t, p.NS, "net/ipv6/conf/default/accept_dad", "0") // dumps do not change by themselves
	return p
}

// soon is a context for what must not hang: it is much longer than a call takes.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// refusal calls a plugin and returns the error that it must print.
func refusal(t *testing.T, m *machine.Machine, c machine.Call) *machine.Refusal {
	t.Helper()
	_, err := m.Do(soon(t), c)
	var r *machine.Refusal
	require.ErrorAs(t, err, &r, "%s %.200s", c.Verb, c.Conf)
	require.NotEqual(t, cni.ErrInternal, r.Code, r.Msg)
	require.Less(t, len(r.Msg), 9000)
	return r
}

// files are all files below a directory, with kind and permissions.
func files(t *testing.T, dir string) (all []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil {
			all = append(all, fmt.Sprintf("%s %s", info.Mode(), strings.TrimPrefix(path, dir)))
		}
		return err
	}))
	return all
}

func newMachine(t *testing.T) *machine.Machine {
	t.Helper()
	m := machine.New(t)
	m.SubnetEnv(t)
	return m
}

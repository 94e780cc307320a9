//go:build linux

package cnitest_test

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/cni/cnitest"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// plugin makes, by the program ip, a pair of links with the addresses of its IPAM plugin.
type plugin struct {
	Leave bool // DEL leaves the pair and the lease
}

func (plugin) ipam(r *cni.Request) (cni.Plugin, error) { return r.Delegate("fake") }

func (p plugin) Add(ctx context.Context, r *cni.Request) (*cni.Result, error) {
	ipam, err := p.ipam(r)
	if err != nil {
		return nil, err
	}
	res, err := ipam.Add(ctx, r)
	if err != nil {
		return nil, err
	}
	node, pod, err := r.Namespaces()
	if err != nil {
		return nil, err
	}
	defer func() { node.Close(); pod.Close() }()
	for _, argv := range [][]string{
		{"link", "add", "host0", "type", "veth", "peer", "name", r.IfName, "netns", r.NetNS},
		{"link", "set", "host0", "up", "alias", "made by a test"}, {"route", "add", "10.1.0.2/32", "dev", "host0", "proto", "117", "mtu", "1400"},
		{"neigh", "add", "10.1.0.2", "dev", "host0", "lladdr", "02:00:00:00:00:02"},
	} {
		if err := ip(node, argv...); err != nil {
			return nil, err
		}
	}
	res.Interfaces = []cni.Interface{{Name: r.IfName, Sandbox: r.NetNS}}
	for i := range res.IPs {
		res.IPs[i].Interface = 0
		if err := ip(pod, "address", "add", res.IPs[i].Address.String(), "dev", r.IfName, "nodad"); err != nil {
			return nil, err
		}
	}
	return res, nil
}

func ip(ns *netns.NS, argv ...string) error {
	return ns.Do(func() error {
		out, err := exec.Command("ip", argv...).CombinedOutput()
		if err != nil {
			err = errors.Join(err, errors.New(string(out)))
		}
		return err
	})
}

func (p plugin) Del(ctx context.Context, r *cni.Request) error {
	node, _, err := r.Namespaces()
	if err != nil {
		return err
	}
	defer node.Close()
	if !p.Leave {
		_ = ip(node, "link", "del", "host0")
	}
	ipam, err := p.ipam(r)
	if err != nil || p.Leave {
		return err
	}
	return ipam.Del(ctx, r)
}

func (plugin) Check(context.Context, *cni.Request) error  { return nil }
func (plugin) Status(context.Context, *cni.Request) error { return nil }
func (plugin) GC(context.Context, *cni.Request) error     { return nil }

// The tests below run this one in another process, with a file that says something else.
func TestATableHoldsWhatAPluginMakesOfTheNode(t *testing.T) {
	file := cmp.Or(os.Getenv("CNITEST_FILE"), filepath.Join("testdata", "link.txt"))
	cnitest.Table{Plugin: plugin{Leave: os.Getenv("CNITEST_LEAVE") != ""}}.Run(t, file)
}

// inAnother runs a table with a changed copy of the file, and returns what the test prints and the file afterwards.
func inAnother(t *testing.T, changes []string, env string, args ...string) (out, file string, err error) {
	t.Helper()
	nstest.NeedRoot(t)
	b, err := os.ReadFile(filepath.Join("testdata", "link.txt"))
	require.NoError(t, err)
	for i := 0; i < len(changes); i += 2 {
		require.Contains(t, string(b), changes[i])
	}
	path := filepath.Join(t.TempDir(), "table.txt")
	require.NoError(t, os.WriteFile(path, []byte(strings.NewReplacer(changes...).Replace(string(b))), 0o600))
	cmd := exec.Command(os.Args[0], append(args, "-test.run=^TestATableHoldsWhatAPluginMakesOfTheNode$")...)
	cmd.Env = append(os.Environ(), "CNITEST_FILE="+path, env)
	printed, err := cmd.CombinedOutput()
	b, readErr := os.ReadFile(path)
	require.NoError(t, readErr)
	return string(printed), string(b), err
}

func TestATableFailsForAnythingThatIsNotAsTheFileSays(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		changes []string
		env     string
		says    []string
	}{
		{[]string{"mtu 1400", "mtu 1401", "eth0 10.1.0.2/24", "eth0 10.1.0.3/24", `"code": 11`, `"code": 7`}, "", []string{"node is\n", "pod is\n", "answer is\n"}},
		{[]string{"-- pod --", "-- other.txt --"}, "CNITEST_LEAVE=1", []string{"pod is\n", "left is\n", "leases are still held: [{c1 eth0}]"}},
		{[]string{"-- ipam --", "-- ipan --"}, "", []string{`there is no section "ipan"`}},
		{[]string{"== ", "=+ "}, "", []string{"has no case"}},
	} {
		out, _, err := inAnother(t, c.changes, c.env)
		require.Error(t, err)
		for _, says := range c.says {
			require.Contains(t, out, says)
		}
	}
}

func TestTheFlagUpdateWritesTheFileAsItWouldPass(t *testing.T) {
	t.Parallel()
	want, err := os.ReadFile(filepath.Join("testdata", "link.txt"))
	require.NoError(t, err)
	out, file, err := inAnother(t, []string{"mtu 1400", "mtu 1401"}, "", "-update")
	require.NoError(t, err, out)
	require.Equal(t, string(want), file)
}

func TestTheFakeIPAMRemembersWhatItWasAskedAndWhoHoldsAddresses(t *testing.T) {
	t.Parallel()
	fake := &cnitest.IPAM{Leases: []string{"10.1.0.2/24 via 10.1.0.1, fd00:1::2/64", "10.1.0.3/24", "10.1.0/24"}}
	build := func(q cnitest.Request) *cni.Request {
		t.Helper()
		q.Config = `{"cniVersion": "1.1.0", "name": "net", "type": "test"}`
		r, err := q.Build(nil)
		require.NoError(t, err)
		return r
	}
	pod := nstest.New(t)
	first, second := build(cnitest.Request{Pod: pod}), build(cnitest.Request{Pod: pod, ContainerID: "c2", IfName: "eth1"})
	res, err := fake.Add(t.Context(), first)
	require.NoError(t, err)
	require.Equal(t, []cni.IP{
		{Address: netip.MustParsePrefix("10.1.0.2/24"), Gateway: netip.MustParseAddr("10.1.0.1"), Interface: cni.NoInterface},
		{Address: netip.MustParsePrefix("fd00:1::2/64"), Interface: cni.NoInterface},
	}, res.IPs)
	require.ErrorContains(t, fake.Check(t.Context(), second), "has no lease")
	_, err = fake.Add(t.Context(), second)
	require.NoError(t, err)
	require.NoError(t, fake.Check(t.Context(), second))
	_, err = fake.Add(t.Context(), second)
	require.ErrorContains(t, err, `lease "10.1.0/24"`)
	require.Equal(t, []cni.Attachment{{ContainerID: "c1", IfName: "eth0"}, {ContainerID: "c2", IfName: "eth1"}}, fake.Held())
	require.NoError(t, fake.GC(t.Context(), build(cnitest.Request{Verb: cni.GC, Valid: []cni.Attachment{first.Attachment()}})))
	require.Equal(t, []cni.Attachment{first.Attachment()}, fake.Held())
	require.NoError(t, fake.Del(t.Context(), first))
	require.Empty(t, fake.Held())

	fake.Leases = fake.Leases[:2]
	require.Equal(t, cni.ErrTryAgain, cni.CodeOf(fake.Status(t.Context(), build(cnitest.Request{Verb: cni.STATUS}))))
	fake.Fail = map[cni.Verb]error{cni.DEL: errors.New("as stated")}
	require.EqualError(t, fake.Del(t.Context(), first), "as stated")
	require.Len(t, fake.Calls(), 9)
	require.Equal(t, first, fake.Calls()[0])
	require.Equal(t, cni.DEL, fake.Calls()[8].Verb)
}

func TestARequestIsWhatARuntimeAsksInAnyVersion(t *testing.T) {
	t.Parallel()
	pod := nstest.New(t)
	const conf = `{"name": "net", "type": "test"}`
	for _, version := range cni.Versions {
		r, err := cnitest.Request{Config: conf, Version: version, Pod: pod, Args: "K=V"}.Build(cni.Delegates{"fake": &cnitest.IPAM{}})
		require.NoError(t, err)
		require.Equal(t, version, r.Version)
		require.Equal(t, cni.Attachment{ContainerID: "c1", IfName: "eth0"}, r.Attachment())
		value, _ := r.Arg("K")
		require.Equal(t, "V", value)
		require.Contains(t, r.Delegates, "fake")
	}
	r, err := cnitest.Request{Verb: cni.GC, Config: conf, Version: "1.1.0", Valid: []cni.Attachment{}}.Build(nil)
	require.NoError(t, err)
	require.Empty(t, r.Valid)
	r, err = cnitest.Request{Verb: cni.CHECK, Config: conf, Version: "1.0.0", Pod: pod, Prev: []byte(`{"cniVersion": "1.0.0", "dns": {"domain": "x"}}`)}.Build(nil)
	require.NoError(t, err)
	require.Equal(t, "x", r.Prev.DNS.Domain)
	_, err = cnitest.Request{Config: "{", Version: "1.0.0", Pod: pod}.Build(nil)
	require.ErrorContains(t, err, "netconf of the test")
	_, err = cnitest.Request{Config: "{", Pod: pod}.Build(nil) // the plugin's to refuse
	require.Equal(t, cni.ErrDecode, cni.CodeOf(err))

	answer, err := cnitest.Request{Config: conf, ContainerID: "/"}.Run(t.Context(), pod, plugin{}, nil)
	require.NoError(t, err)
	require.Equal(t, 1, answer.Status)
	require.Contains(t, string(answer.Out), `"code":4`)
}

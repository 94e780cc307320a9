//go:build linux

// Package library is a container runtime made of libcni alone, on a node of its own.
package library

import (
	"net/netip"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/test/internal/node"
)

// Runtime calls the plugins of a directory for one network.
type Runtime struct {
	*node.Node
	List *libcni.NetworkConfigList
	Caps map[string]any // the capability arguments of pods to come

	t   testing.TB
	cni *libcni.CNIConfig
}

// New makes a node and loads a conflist.
func New(t testing.TB, dir, conflist string) *Runtime {
	t.Helper()
	list, err := libcni.NetworkConfFromBytes([]byte(conflist))
	require.NoError(t, err)
	return &Runtime{Node: node.New(t), List: list, t: t, cni: libcni.NewCNIConfigWithCacheDir([]string{dir}, "/var/lib/cni", nil)}
}

// Pod is a container that the runtime knows.
type Pod struct {
	NS  *netns.NS
	RT  *libcni.RuntimeConf
	IPs []netip.Addr // of the last [Pod.Add]

	r *Runtime
}

// Pod makes a container with a namespace, not attached yet.
func (r *Runtime) Pod(name string) *Pod {
	r.t.Helper()
	path, ns := r.Node.Pod(r.t, name)
	return &Pod{NS: ns, RT: &libcni.RuntimeConf{ContainerID: name, NetNS: path, IfName: "eth0", CapabilityArgs: r.Caps}, r: r}
}

// Add attaches the pod.
func (p *Pod) Add() *current.Result {
	t := p.r.t
	t.Helper()
	var res types.Result
	require.NoError(t, p.r.Do(func() (err error) {
		res, err = p.r.cni.AddNetworkList(t.Context(), p.r.List, p.RT)
		return err
	}))
	require.Equal(t, p.r.List.CNIVersion, res.Version())
	cur, err := current.NewResultFromResult(res)
	require.NoError(t, err)
	p.IPs = nil
	for _, ip := range cur.IPs {
		a, ok := netip.AddrFromSlice(ip.Address.IP)
		require.True(t, ok)
		p.IPs = append(p.IPs, a.Unmap())
	}
	return cur
}

// Check is libcni's CHECK.
func (p *Pod) Check() error {
	return p.r.Do(func() error { return p.r.cni.CheckNetworkList(p.r.t.Context(), p.r.List, p.RT) })
}

// Del detaches the pod.
func (p *Pod) Del() {
	p.r.t.Helper()
	require.NoError(p.r.t, p.r.Do(func() error { return p.r.cni.DelNetworkList(p.r.t.Context(), p.r.List, p.RT) }))
}

// Status is libcni's STATUS.
func (r *Runtime) Status() error {
	return r.Do(func() error { return r.cni.GetStatusNetworkList(r.t.Context(), r.List) })
}

// GC is libcni's GC: only the given pods are still valid.
func (r *Runtime) GC(valid ...*Pod) error {
	args := &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}
	for _, p := range valid {
		args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: p.RT.ContainerID, IfName: p.RT.IfName})
	}
	return r.Do(func() error { return r.cni.GCNetworkList(r.t.Context(), r.List, args) })
}

// Settled is the trace when a first pod came and went: what belongs to the network is part of it.
func (r *Runtime) Settled() string {
	r.t.Helper()
	p := r.Pod("first")
	p.Add()
	p.Del()
	return r.Trace(r.t)
}

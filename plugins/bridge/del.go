package bridge

import (
	"context"
	"errors"
	"io/fs"

	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
)

// Del takes the attachment away. It needs neither the namespace nor prevResult nor the ranges, and goes on after an
// error: whatever can go goes.
func (p Plugin) Del(ctx context.Context, r *cni.Request) error {
	j, err := p.begin(r)
	if err != nil {
		return err
	}
	defer j.close()
	ours, master, device := j.removeDevice(ctx)
	var lease error
	if device == nil && j.ipam != nil { // an address must not return to the pool while a device bears it
		lease = j.ipam.Del(ctx, r)
	}
	err = errors.Join(device, lease, j.forget(ctx))
	if err == nil {
		err = j.retireGateways(ctx, master, true)
	}
	if !ours {
		err = errors.Join(err, j.removeReference(ctx, j.prevAddrs()...))
	}
	return err
}

// removeDevice removes our pair, which its name tells, or the one that the reference made, which the pod's namespace
// tells. It reports whether there was one of ours, and the bridge that it was on.
func (j *job) removeDevice(ctx context.Context) (ours bool, master int, err error) {
	c, err := rtnl.Open(j.host)
	if err != nil {
		return false, 0, err
	}
	l, err := c.LinkByName(link.HostName(j.Network, j.ContainerID, j.IfName))
	if err == nil {
		return true, l.Master, rtnl.Except(j.remove(ctx, j.host, l.Index), fs.ErrNotExist)
	}
	if !errors.Is(err, fs.ErrNotExist) || j.NetNS == "" {
		return false, 0, rtnl.Except(err, fs.ErrNotExist)
	}
	pod, err := netns.Open(j.NetNS)
	if err != nil {
		return false, 0, nil // the namespace is gone, or was none: its interfaces went with it
	}
	defer pod.Close()
	if pod.Same(j.host) {
		return false, 0, nil
	}
	end, ok, err := referencePair(ctx, j.host, pod, j.IfName, j.Bridge)
	if err != nil || !ok {
		return false, 0, err
	}
	return false, end.Master, rtnl.Except(j.remove(ctx, j.host, end.Index), fs.ErrNotExist)
}

// referencePair finds the host end of the pod's interface if it is a port of the bridge and bears no alias of ours: an
// attachment that the reference made. An interface of another network is not taken for it.
func referencePair(ctx context.Context, host, pod *netns.NS, ifName, bridgeName string) (rtnl.Link, bool, error) {
	none := func(err error) (rtnl.Link, bool, error) { return rtnl.Link{}, false, rtnl.Except(err, fs.ErrNotExist) }
	in, err := rtnl.Open(pod)
	if err != nil {
		return none(err)
	}
	l, err := in.LinkByName(ifName)
	if err != nil || l.Kind != "veth" {
		return none(err)
	}
	out, err := rtnl.Open(host)
	if err != nil {
		return none(err)
	}
	end, err := out.LinkByIndex(l.Peer)
	if err != nil || end.Kind != "veth" || end.Peer != l.Index || end.Alias != "" {
		return none(err)
	}
	br, err := bridge.Get(ctx, host, bridgeName)
	if err != nil || end.Master != br.Index {
		return none(rtnl.Except(err, bridge.ErrNotBridge))
	}
	return end, true, nil
}

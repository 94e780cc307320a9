//go:build linux

package attach

import (
	"context"
	"errors"
	"io/fs"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/foreign"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/shape"
	"github.com/cniblocks/cniblocks/veth"
)

// HostEnd finds the host end of the attachment that a request is about, for chained plugins: the one that bears its name and
// alias, or, where another program made it, the one that the interface in the pod leads to. No pair is [io/fs.ErrNotExist]. pod
// may be nil: it is opened if it is needed and there.
func HostEnd(ctx context.Context, r *cni.Request, node, pod *netns.NS) (link.Link, error) {
	end, err := link.Get(ctx, node, link.HostName(r.Network, r.ContainerID, r.IfName))
	if err == nil && end.Alias == link.Alias(r.Network, r.ContainerID, r.IfName) {
		return end, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return link.Link{}, err
	}
	if pod == nil {
		if pod, err = netns.Open(r.NetNS); err != nil {
			return link.Link{}, fs.ErrNotExist // its interfaces went with it
		}
		defer pod.Close()
	}
	return veth.HostEnd(ctx, node, pod, r.IfName)
}

// Shaped is what bears the rate limits of an attachment: the host end of that name, and a helper of the name that the reference
// gives it.
func Shaped(network string, a cni.Attachment, hostEnd string) shape.Device {
	return shape.Device{Name: hostEnd, Owner: link.Alias(network, a.ContainerID, a.IfName),
		Helper: foreign.Attachment{Network: network, ContainerID: a.ContainerID}.IFB()}
}

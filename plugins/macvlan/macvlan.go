// Package macvlan is the CNI plugin "macvlan": it attaches a container to the network of a device of the node, as a station
// with a MAC address of its own. The node's own addresses are out of its reach.
//
// It takes every key of the reference plugin of that name and keeps its meaning. See docs/plugins/macvlan.md.
package macvlan

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/attach"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/link"
)

type conf struct {
	attach.Sub
	attach.OwnMAC
	Mode       string `json:"mode"`
	BCQueueLen uint32 `json:"bcqueuelen"`
}

// Plugin is the macvlan plugin.
func Plugin() attach.Device {
	return attach.Device{New: func() attach.DeviceConf { return &conf{} }}
}

// Validate judges the keys that only this plugin has.
func (c *conf) Validate(*cni.Request) error {
	if c.Mode != "" && !slices.Contains(link.MacvlanModes, c.Mode) {
		return cni.Errorf(cni.ErrConfig, `netconf: key "mode" is %q; want "%s"`, c.Mode, strings.Join(link.MacvlanModes, `", "`))
	}
	return nil
}

func (c *conf) Kind() link.Kind { return link.Macvlan{Mode: c.Mode, BCQueueLen: c.BCQueueLen} }

// Prepare finds the master.
func (c *conf) Prepare(ctx context.Context, p *attach.Pod, s *link.Spec) error {
	return errors.Join(c.Choose(s), c.Sub.Prepare(ctx, p, s))
}

func (c *conf) Why(err error) string {
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Sprintf(`key "master" is %q: it is a port of a bridge or bond, or has ipvlan interfaces, which macvlan excludes; want another device`, c.Master)
	case errors.Is(err, unix.EINVAL):
		return fmt.Sprintf(`key "mode" is %q: an interface in mode "passthru" is alone on its master; want another mode or another master`, c.Mode)
	}
	return ""
}

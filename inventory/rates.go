//go:build linux

package inventory

import (
	"context"
	"slices"

	"github.com/cniblocks/cniblocks/shape"
)

// readRates finds the limits of pods. Those of other devices are no concern of ours.
func (r *reader) readRates(ctx context.Context) error {
	list, err := shape.List(ctx, r.NS)
	for _, l := range list {
		rate := Rate{Device: l.Device, Helper: l.Helper, Limits: l.Limits}
		i := slices.IndexFunc(r.n.Attachments, func(a Attachment) bool { return a.HostEnd == l.Device })
		if m, ok := r.mark(l.Owner); ok && m.attachment() {
			rate.Owner, rate.Network = Ours, m.network
		} else if i < 0 {
			continue
		} else {
			rate.Owner, rate.Network = r.n.Attachments[i].Owner, r.n.Attachments[i].Network
		}
		r.n.Rates = append(r.n.Rates, rate)
	}
	return err
}

package kube

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/flannel"
)

// own is what is kept of this node's own Node, and what it was told to publish.
type own struct {
	name        string
	uid         types.UID
	ranges      []string          // those of the network's families
	annotations map[string]string // those with flannel's names
	reach       peer.Reach        // the zero value before the first Publish
}

func (s *Store) own(n *corev1.Node) own {
	o := own{name: n.Name, uid: n.UID, ranges: s.wanted(podCIDRs(n)), annotations: map[string]string{}}
	for _, name := range annotationNames(s.names) {
		if v, ok := n.Annotations[name]; ok {
			o.annotations[name] = v
		}
	}
	return o
}

func (o own) equal(p own) bool {
	return o.uid == p.uid && slices.Equal(o.ranges, p.ranges) && maps.Equal(o.annotations, p.annotations)
}

// written are the annotations that a node writes.
func written(n flannel.Annotations) []string {
	return []string{n.Managed, n.BackendType, n.BackendData, n.BackendV6Data, n.PublicIP, n.PublicIPv6}
}

func annotationNames(n flannel.Annotations) []string {
	return append(written(n), n.PublicIPOverwrite, n.PublicIPv6Overwrite)
}

// Acquire waits until the cluster has assigned ranges to the Node of the name want.Name, and takes them; want.Pods play no
// part. The Reach of the result is what the Node's annotations say, by an earlier agent or by flannel; the addresses are
// those that people ordered by the annotations public-ip-overwrite and public-ipv6-overwrite, else those that are
// published, else those of want.
//
// A Node that is not there, and ranges that do not fit the configuration of the network, are an error at once.
func (s *Store) Acquire(ctx context.Context, want peer.Peer) (peer.Peer, error) {
	v := newView(s.own, own.equal)
	defer s.client.start(ctx, only(want.Name), v)()
	waiting := "the API server has not answered yet"
	for {
		select {
		case <-ctx.Done():
			return peer.Peer{}, fmt.Errorf("node %q at %s: %s: %w", want.Name, s.client.server, waiting, context.Cause(ctx))
		case <-v.changed:
		}
		known, nodes, trouble := v.snapshot()
		o, there := nodes[want.Name]
		switch {
		case trouble != nil:
			waiting = trouble.Error()
		case !known:
		case !there:
			return peer.Peer{}, fmt.Errorf("node %q is not in the cluster %s: start its kubelet, or state the name that it has there", want.Name, s.client.server)
		case len(o.ranges) == 0:
			waiting = "it has no spec.podCIDRs yet; the controller manager assigns them if it has --allocate-node-cidrs and --cluster-cidr"
		default:
			return s.take(o, want)
		}
	}
}

// take makes the ranges of o this node's.
func (s *Store) take(o own, want peer.Peer) (peer.Peer, error) {
	l, err := s.names.Lease(o.annotations, o.ranges)
	if err != nil { // of this node's own annotations: they will be written anew
		if l, err = s.names.Lease(nil, o.ranges); err != nil {
			return peer.Peer{}, fmt.Errorf("node %q: %w", o.name, err)
		}
	}
	if err := s.fits(l); err != nil {
		return peer.Peer{}, fmt.Errorf("node %q: %w", o.name, err)
	}
	four, six, err := s.names.Overwrite(o.annotations)
	if err != nil {
		return peer.Peer{}, fmt.Errorf("node %q: %w", o.name, err)
	}
	p := peer.Peer{Name: o.name, Pods: l.Pods()}
	if l.Attrs.Published() {
		if p.Reach, err = l.Attrs.Reach(); err != nil {
			p.Reach = peer.Reach{}
		}
	}
	p.V4.Addr = cmp.Or(four, p.V4.Addr, want.V4.Addr)
	p.V6.Addr = cmp.Or(six, p.V6.Addr, want.V6.Addr)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mine = o
	return p, nil
}

// fits checks the ranges against the configuration.
func (s *Store) fits(l flannel.Lease) error {
	if s.config == (flannel.Config{}) {
		return nil
	}
	for _, f := range []struct {
		enabled      bool
		family       inet.Family
		have, within netip.Prefix
	}{
		{s.config.EnableIPv4, inet.IPv4, l.Subnet, s.config.Network},
		{s.config.EnableIPv6, inet.IPv6, l.IPv6Subnet, s.config.IPv6Network},
	} {
		switch {
		case !f.enabled:
		case !f.have.IsValid():
			return fmt.Errorf("spec.podCIDRs has no %s range, which net-conf.json enables: give the controller manager a --cluster-cidr of both families, or disable the family", f.family)
		case f.have.Bits() < f.within.Bits() || !f.within.Contains(f.have.Addr()):
			return fmt.Errorf("spec.podCIDRs %s is not in the network %s of net-conf.json: state the --cluster-cidr of the controller manager there", f.have, f.within)
		}
	}
	return nil
}

// still says why o is no longer what was acquired, or "".
func (o own) still(now own, there bool) string {
	switch {
	case !there:
		return fmt.Sprintf("node %q was deleted from the cluster", o.name)
	case now.uid != o.uid:
		return fmt.Sprintf("node %q was deleted from the cluster and made anew", o.name)
	case !slices.Equal(now.ranges, o.ranges):
		return fmt.Sprintf("node %q had %s, its spec.podCIDRs are %s now", o.name, spoken(o.ranges), spoken(now.ranges))
	}
	return ""
}

func spoken(ranges []string) string {
	if len(ranges) == 0 {
		return "none"
	}
	return strings.Join(ranges, ", ")
}

package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/flannel"
)

// Publish writes how this node is reached into the annotations of its Node, by a merge patch of those that differ, and
// says in the condition NetworkUnavailable that the node has a network (reason FlannelIsUp, as flannel does). An address
// that people ordered by an -overwrite annotation is published in place of r's.
func (s *Store) Publish(ctx context.Context, r peer.Reach) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mine.name == "" {
		return errors.New("publish: no ranges are acquired yet")
	}
	if err := s.publish(ctx, r); err != nil {
		return fmt.Errorf("publish node %q: %w", s.mine.name, err)
	}
	s.mine.reach = r
	return nil
}

func (s *Store) publish(ctx context.Context, r peer.Reach) error {
	n, err := s.client.get(ctx, s.mine.name)
	there := err == nil
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	now := own{}
	if there {
		now = s.own(n)
	}
	if why := s.mine.still(now, there); why != "" {
		return fmt.Errorf("%s: %w", why, peer.ErrLost)
	}
	patch, err := s.difference(now, r)
	if err != nil {
		return err
	}
	if len(patch) > 0 {
		doc, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": now.uid, "annotations": patch}})
		if err != nil {
			return err
		}
		if _, err := s.client.patch(ctx, types.MergePatchType, now.name, doc); err != nil {
			return fmt.Errorf("annotations: %w", err)
		}
	}
	return s.available(ctx, n)
}

// difference is a merge patch (RFC 7386) from the annotations that are there to those that say r.
func (s *Store) difference(now own, r peer.Reach) (map[string]*string, error) {
	four, six, err := s.names.Overwrite(now.annotations)
	if err != nil {
		return nil, err
	}
	r.V4.Addr, r.V6.Addr = cmp.Or(four, r.V4.Addr), cmp.Or(six, r.V6.Addr)
	attrs, err := flannel.EncodeReach(r)
	if err != nil {
		return nil, err
	}
	want, patch := s.names.Of(attrs), map[string]*string{}
	for _, name := range written(s.names) {
		w, wanted := want[name]
		h, have := now.annotations[name]
		switch {
		case wanted && (!have || h != w):
			patch[name] = &w
		case have && !wanted:
			patch[name] = nil
		}
	}
	return patch, nil
}

// The words of the condition, which flannel's nodes have too.
const (
	reason  = "FlannelIsUp"
	message = "cniblocks is running on this node"
)

// available sets the condition NetworkUnavailable to False, which takes the taint of that name off the Node.
func (s *Store) available(ctx context.Context, n *corev1.Node) error {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeNetworkUnavailable && c.Status == corev1.ConditionFalse && c.Reason == reason && c.Message == message {
			return nil
		}
	}
	now := metav1.Now()
	doc, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []corev1.NodeCondition{{
		Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse, Reason: reason, Message: message,
		LastTransitionTime: now, LastHeartbeatTime: now,
	}}}})
	if err != nil {
		return err
	}
	if _, err := s.client.patch(ctx, types.StrategicMergePatchType, n.Name, doc, "status"); err != nil {
		return fmt.Errorf("condition NetworkUnavailable: %w", err)
	}
	return nil
}

// Lost blocks as [peer.Registrar] says. The ranges are lost when the Node is deleted, though it may be made anew since, or
// has others in spec.podCIDRs. What was published is put back where others remove or change it, and follows the -overwrite
// annotations.
func (s *Store) Lost(ctx context.Context) error {
	s.mu.Lock()
	name := s.mine.name
	s.mu.Unlock()
	if name == "" {
		return errors.New("no ranges are acquired yet")
	}
	v := newView(s.own, own.equal)
	defer s.client.start(ctx, only(name), v)()
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-v.changed:
		case <-again:
		}
		again = nil
		known, nodes, trouble := v.snapshot()
		if !known || trouble != nil {
			continue
		}
		now, there := nodes[name]
		if err := s.lost(ctx, now, there); errors.Is(err, peer.ErrLost) {
			return err
		} else if err != nil {
			again = time.After(time.Second)
		}
	}
}

// lost reports the loss of the ranges, and publishes again what is no longer there.
func (s *Store) lost(ctx context.Context, now own, there bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if why := s.mine.still(now, there); why != "" {
		return fmt.Errorf("%s: %w", why, peer.ErrLost)
	}
	if s.mine.reach == (peer.Reach{}) {
		return nil
	}
	patch, err := s.difference(now, s.mine.reach)
	if err != nil || len(patch) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return s.publish(ctx, s.mine.reach)
}

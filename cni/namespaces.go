//go:build linux

package cni

import (
	"errors"
	"io/fs"

	"github.com/cniblocks/cniblocks/netns"
)

// Namespaces opens the network namespace of the node, that of the calling thread, and for ADD and CHECK the container's;
// for the other verbs, which work without it, pod is nil. A container's namespace that is not there is an
// [ErrUnknownContainer], one that is none, or the node's own, an [ErrEnvironment]. Both are to be closed.
func (r *Request) Namespaces() (node, pod *netns.NS, err error) {
	if node, err = netns.Current(); err != nil || r.Verb != ADD && r.Verb != CHECK {
		return node, nil, err
	}
	pod, err = netns.Open(r.NetNS)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = Errorf(ErrUnknownContainer, "CNI_NETNS: %w", err)
	case err != nil:
		err = Errorf(ErrEnvironment, "CNI_NETNS: %w", err)
	case pod.Same(node):
		err = Errorf(ErrEnvironment, "CNI_NETNS=%s is the node's own network namespace; want the container's", clip(r.NetNS))
	default:
		return node, pod, nil
	}
	return nil, nil, errors.Join(err, pod.Close(), node.Close())
}

//go:build linux

package cni

import (
	"errors"
	"io/fs"

	"github.com/cniblocks/cniblocks/netns"
)

// lent are namespaces that are open already.
type lent struct {
	netNS     string // that pod was opened by
	node, pod *netns.NS
}

// Lend gives the plugins that this request goes to in the same process the namespaces that the caller has open, so that
// [Request.Namespaces] does not open them, and their sockets, once more. Each closes what it got by itself. Either may be nil, which
// lends nothing.
func (r *Request) Lend(node, pod *netns.NS) { r.lent = lent{r.NetNS, node, pod} }

// Namespaces opens the network namespace of the node, that of the calling thread, and for ADD and CHECK the container's;
// for the other verbs, which work without it, pod is nil. A container's namespace that is not there is an
// [ErrUnknownContainer], one that is none, or the node's own without [Request.NodeNetNS], an [ErrEnvironment]. Both are to be closed.
func (r *Request) Namespaces() (node, pod *netns.NS, err error) {
	attach := r.Verb == ADD || r.Verb == CHECK
	if l, ok := r.lent.(lent); ok && l.node.Check() == nil && (!attach || l.pod.Check() == nil && l.netNS == r.NetNS) {
		if attach {
			pod = l.pod.Share()
		}
		return l.node.Share(), pod, nil
	}
	if node, err = netns.Current(); err != nil || !attach {
		return node, nil, err
	}
	pod, err = netns.Open(r.NetNS)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = Errorf(ErrUnknownContainer, "CNI_NETNS: %w", err)
	case err != nil:
		err = Errorf(ErrEnvironment, "CNI_NETNS: %w", err)
	case pod.Same(node) && !r.NodeNetNS:
		err = Errorf(ErrEnvironment, "CNI_NETNS=%s is the node's own network namespace; want the container's, or CNI_NETNS_OVERRIDE=1", clip(r.NetNS))
	default:
		return node, pod, nil
	}
	return nil, nil, errors.Join(err, pod.Close(), node.Close())
}

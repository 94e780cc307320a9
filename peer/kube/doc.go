// Package kube has the peers in the Kubernetes API: every Node is one. Its ranges are those that the cluster assigned,
// spec.podCIDRs, and how it is reached stands in annotations of flannel's names and formats, so that a node of this
// project and one of flannel's share a network.
//
// [Store] is a [github.com/cniblocks/cniblocks/peer.Source] and a [github.com/cniblocks/cniblocks/peer.Registrar]. It
// needs to get, list and watch nodes, and to patch nodes and nodes/status; it writes its own Node alone. Nothing but
// an agent links this package: plugins never ask an API server.
package kube

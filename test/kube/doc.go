// Package kube runs the node agent and the plugins in a cluster of the real programs of Kubernetes: etcd, kube-apiserver,
// controller manager, scheduler, and on each node containerd, kubelet and kube-proxy. Its nodes are machines as package
// test/internal/node plays them, on one switch.
package kube

// Package runtimes runs the plugins under the programs that call them on real nodes: libcni and cnitool, containerd
// through the Container Runtime Interface, podman. Each test has a machine of its own, see its package node.
package runtimes

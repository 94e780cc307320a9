// Package flannel proves that nodes with this project's agent and plugins and nodes with real flanneld and flannel's own
// plugin share a network in etcd, and that a node moves from one to the other and back with its pods running.
package flannel

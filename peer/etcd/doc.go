// Package etcd keeps a pod network in etcd (version 3.4 or later of the server), in flannel's layout: nodes with this
// project's agent and nodes with flanneld share one network.
//
//	<prefix>/config                   the network, written by people (package flannel)
//	<prefix>/subnets/10.244.1.0-24    a node's lease: its ranges are the key, how it is reached is the value
//	/cniblocks/claims<prefix>/10.244.1.0-24
//
// A lease is bound to an etcd lease, which its node keeps alive; without one it is a reservation, which stays until people
// remove it. Below subnets there is nothing else, since flanneld takes everything there for a lease.
//
// A dual-stack lease names both ranges in one key, so the key alone does not stop two nodes from taking the same IPv4
// range. Therefore a claim for each range is written in the same transaction, bound to the same etcd lease. flanneld makes
// no claims: after the write the leases are read once more, and where two overlap the lower create revision wins.
//
// [Store] is a [peer.Source] and a [peer.Registrar].
package etcd

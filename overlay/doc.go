// Package overlay carries the traffic of pods between nodes: through tunnels, or by plain routes where the nodes share a
// link.
//
// [New] takes one of the encapsulations ([VXLAN], [GRE], [IPIP], [Geneve], [WireGuard], [Direct]) and returns a [Node]
// that keeps the kernel of this node in step with whole lists of peers. Whatever the encapsulation, a peer costs a fixed
// few objects in the kernel, whose number does not depend on the other peers.
//
// Everything that is made bears a mark: devices the alias cniblocks/<network>, routes, neighbour entries and addresses the
// protocol number [Proto], FDB entries the flag extern_learn. What bears it and is not wanted is removed; everything else
// is foreign, stays as it is, and is named in an error where it stands in the way.
//
// Out of scope: who the peers are (package peer), SNAT, the forwarding of packets, what pods are attached to.
package overlay

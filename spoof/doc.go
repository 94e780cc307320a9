// Package spoof drops frames that enter a bridge by a guarded port with another source address than the port's own.
//
// Table bridge cniblocks of nftables holds one rule for all bridges and ports of a namespace, and two sets: the guarded
// ports, and the pairs of port and address that may pass. A port costs two elements, and a frame the same with one port
// as with thousands. It works over netlink; no program is needed.
//
// Out of scope: addresses above Ethernet.
package spoof

// Package masq lets the pods of a network reach what lies outside of it by SNAT. Package forward lets them through a FORWARD
// policy that drops.
//
// SNAT is static for a network and family. A [Policy] names the addresses that pods may have; a [Backend] keeps one rule
// for them, which neither a pod's ADD nor its DEL changes and whose cost for a packet does not grow with the number of
// pods. [NFT] speaks to nftables over netlink, [IPTables] calls the iptables programs; both express the same policy.
//
// Names are fixed: table inet cniblocks; chains CNIB-POSTROUTING and CNIB- with a hash of the network's name; comments
// "cniblocks <network>". What does not bear them is never changed.
//
// Out of scope: the forwarding sysctls, port mappings, network policy.
package masq

// Package nft asks and changes the nftables of a network namespace over netlink.
//
// It is made for callers that come from a fresh process, look whether all is right in one write to the kernel
// ([Conn.Query]) and nearly always find it so. What must change is computed from a reading and goes in one transaction
// that the kernel refuses when the ruleset changed since ([Conn.Update]), so that concurrent writers never lose or
// double anything. Rules are written and compared as lists of expressions.
//
// Attributes and constants are those of linux/netfilter/nf_tables.h. Out of scope: monitoring, named counters, flow
// tables, and a language for rules.
package nft

// Package xtables reads and changes the tables of iptables(8) in a network namespace: through the programs
// iptables-save and iptables-restore, one process each and no shell, and, as far as questions go, straight from the kernel
// for the legacy tables, so that a program is started only where there is something for it to do.
//
// Tables that iptables-nft keeps in nftables are read without any program by package nft.
package xtables

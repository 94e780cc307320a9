// Package ipam leases addresses from ranges, and keeps the leases in a directory that the reference host-local plugin
// reads and writes as well.
//
//	a := ipam.Allocator{
//		Dir:   ipam.Dir{Network: "blue"},
//		Pools: []ipam.Pool{{{Subnet: netip.MustParsePrefix("10.22.0.0/16")}}},
//	}
//	leases, err := a.Allocate(ctx, ipam.Owner{ContainerID: id, IfName: "eth0"})
//
// An [Allocator] hands out one address from every [Pool], all or nothing. A [Dir] is where the leases of one network live;
// what needs no ranges (Release, Check, Retain) is there, so that a lease can be given back after its range left the
// configuration. Both are plain values: nothing stays open between calls, and any number of processes, those of the
// reference plugin v1.9.1 included, may work on one directory at a time.
//
// # On disk
//
// The layout is that of the reference: <DataDir>/<Network>/<address> holds the container ID, CR LF and the interface name,
// last_reserved_ip.N the address that pool N gave last, and lock is held by flock(2) while anything changes. A lease
// file appears with its whole content or not at all.
//
// Beside it lies an index, <DataDir>/.cniblocks/<Network>/<boot ID>/, that may be deleted at any time. It has a hash table
// that finds the leases of an owner, and for every 65536 addresses a file with two bitmaps: used, and reclaimable. It is in
// step with the leases as long as the modification times of both directories fit each other to the nanosecond; every change
// sets them to a random one. A lease file that anybody else creates or removes breaks the tie, and the next call reads the
// whole directory once. Text that is written into an existing lease file by hand does not; it is seen at the next such
// reading. What the index says of a lease is believed only if the lease file agrees.
//
// # Reboot
//
// No container survives a reboot, so a lease of an earlier boot is free for whoever needs an address, and its owner gets
// it again. The index knows in which boot a lease was made, and the inode and the modification time of the lease file; a
// lease that it does not know counts as made in this boot. Files are not synced: power loss ends every container.
// An empty or unreadable lease file, which a crash can leave, costs no address either.
//
// Out of scope: putting addresses on interfaces, and agreement between hosts.
package ipam

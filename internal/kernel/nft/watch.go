//go:build linux

package nft

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/netns"
)

// Watch tells when the ruleset of a namespace has changed, by whomever.
type Watch struct{ f *os.File }

// OpenWatch subscribes to transactions: from then on none is missed.
func OpenWatch(ns *netns.NS) (*Watch, error) {
	fd, err := ns.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	if err := subscribe(fd); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("nftables: subscribe: %w", err)
	}
	return &Watch{os.NewFile(uintptr(fd), "nftables")}, nil
}

// subscribe takes the announcement of each new generation, and has the kernel drop what comes before it.
func subscribe(fd int) error {
	var typ [2]byte
	binary.NativeEndian.PutUint16(typ[:], unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN)
	raw, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 4, Size: 2}, // nlmsg_type, which the filter reads as big-endian
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(binary.BigEndian.Uint16(typ[:])), SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: 1 << 16},
	})
	if err != nil {
		return err
	}
	code := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		code[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}); err != nil {
		return err
	}
	return unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
}

// Wait returns nil when there was a transaction since the last Wait, and [os.ErrClosed] after Close.
func (w *Watch) Wait() error {
	raw, err := w.f.SyscallConn()
	if err != nil {
		return err
	}
	var buf [1024]byte
	got := false
	err = raw.Read(func(fd uintptr) bool {
		for {
			_, _, err := unix.Recvfrom(int(fd), buf[:], 0)
			switch err {
			case unix.EINTR:
				continue
			case unix.EAGAIN:
				return got
			}
			got = true // of ENOBUFS too, which says that more were lost
			if err != nil && err != unix.ENOBUFS {
				return true
			}
		}
	})
	if err != nil {
		return fmt.Errorf("nftables: %w", os.ErrClosed)
	}
	return nil
}

// Close ends the subscription, and a Wait.
func (w *Watch) Close() error { return w.f.Close() }

//go:build linux

package netns_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
)

func BenchmarkOpen(b *testing.B) {
	for b.Loop() {
		ns, err := netns.Open("/proc/self/ns/net")
		require.NoError(b, err)
		require.NoError(b, ns.Close())
	}
}

func BenchmarkSocketInAnother(b *testing.B) {
	ns := nstest.New(b)
	for b.Loop() {
		fd, err := ns.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
		require.NoError(b, err)
		require.NoError(b, unix.Close(fd))
	}
}

func BenchmarkDo(b *testing.B) {
	ns := nstest.New(b)
	for b.Loop() {
		require.NoError(b, ns.Do(func() error { return nil }))
	}
}

//go:build linux

package sysctl_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/sysctl"
)

func BenchmarkEnsureWithoutChange(b *testing.B) {
	ns := nstest.New(b)
	v := sysctl.Var{Key: "net/ipv4/ip_forward", Value: "1"}
	require.NoError(b, sysctl.Ensure(ns, v))
	for b.Loop() {
		require.NoError(b, sysctl.Ensure(ns, v))
	}
}

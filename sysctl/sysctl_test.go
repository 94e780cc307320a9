//go:build linux

package sysctl_test

import (
	"io/fs"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/sysctl"
)

const ttl = "net/ipv4/ip_default_ttl"

func TestAParameterIsThatOfItsNamespace(t *testing.T) {
	t.Parallel()
	a, b := nstest.New(t), nstest.New(t)
	was, err := sysctl.Get(b, ttl)
	require.NoError(t, err)
	require.NoError(t, sysctl.Ensure(a, sysctl.Var{Key: ttl, Value: "42"}))
	for range 2 {
		v, err := sysctl.Get(a, ttl)
		require.NoError(t, err)
		require.Equal(t, "42", v)
	}
	v, err := sysctl.Get(b, ttl)
	require.NoError(t, err)
	require.Equal(t, was, v)
	require.NoError(t, a.Do(func() error { // in the namespace already
		v, err := sysctl.Get(a, ttl)
		require.Equal(t, "42", v)
		return err
	}))
}

func TestOnlyWhatDiffersIsWritten(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	// A write to a parameter that is read-only fails, whoever writes.
	const readOnly = "net/ipv4/tcp_available_congestion_control"
	v, err := sysctl.Get(ns, readOnly)
	require.NoError(t, err)
	require.NoError(t, sysctl.Ensure(ns, sysctl.Var{Key: readOnly, Value: v}))
	require.Error(t, sysctl.Ensure(ns, sysctl.Var{Key: readOnly, Value: v + "1"}))
}

func TestEnsureGoesOnAfterAnErrorAndReturnsTheFirst(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	err := sysctl.Ensure(ns, sysctl.Var{Key: "net/ipv4/no_such_key", Value: "1"}, sysctl.Var{Key: "net/ipv4/no_other_key", Value: "1"},
		sysctl.Var{Key: ttl, Value: "77"}, sysctl.Var{Key: "net/ipv4/ip_forward", Value: "nonsense"})
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "no_such_key")
	v, err := sysctl.Get(ns, ttl)
	require.NoError(t, err)
	require.Equal(t, "77", v)
	err = sysctl.Ensure(ns, sysctl.Var{Key: "net/ipv4/ip_forward", Value: "nonsense"})
	require.ErrorContains(t, err, "write nonsense to /proc/sys/net/ipv4/ip_forward: invalid argument")
}

func TestAKeyStaysBelowNet(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	for _, key := range []string{"kernel/hostname", "/net/ipv4/ip_forward", "net/../kernel/hostname", "net/ipv4/../../kernel/hostname",
		"net/..", "", "net/ipv4/ip_forward\x00"} {
		_, err := sysctl.Get(ns, key)
		require.ErrorContains(t, err, "want a path below net/", key)
		require.ErrorContains(t, sysctl.Ensure(ns, sysctl.Var{Key: key, Value: "x"}), "want a path below net/", key)
	}
}

func TestAnInterfacesNameMayHaveDots(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	for _, name := range []string{"br0.100", "a..b"} {
		_, err := bridge.Ensure(t.Context(), ns, bridge.Bridge{Name: name})
		require.NoError(t, err)
		key := "net/ipv4/conf/" + name + "/forwarding"
		require.NoError(t, sysctl.Ensure(ns, sysctl.Var{Key: key, Value: "1"}))
		v, err := sysctl.Get(ns, key)
		require.NoError(t, err)
		require.Equal(t, "1", v)
	}
}

func TestALongValueIsReadWhole(t *testing.T) {
	t.Parallel()
	ns := nstest.New(t)
	var ports []string
	for p := 1000; p < 1100; p += 2 {
		ports = append(ports, strconv.Itoa(p))
	}
	want := strings.Join(ports, ",")
	const key = "net/ipv4/ip_local_reserved_ports"
	require.NoError(t, sysctl.Ensure(ns, sysctl.Var{Key: key, Value: want}))
	v, err := sysctl.Get(ns, key)
	require.NoError(t, err)
	require.Equal(t, want, v)
	require.NoError(t, ns.Do(func() error {
		b, err := os.ReadFile("/proc/sys/" + key)
		require.Equal(t, want+"\n", string(b))
		return err
	}))
}

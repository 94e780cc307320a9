//go:build linux

package nstest

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/netns"
)

// Rate sends bytes over TCP from one namespace to an address of another, and is how many bits came in a second, counted from
// the first to the last: what a burst lets pass before is to be small beside it.
func Rate(t testing.TB, from, to *netns.NS, at netip.Addr, bytes int) float64 {
	t.Helper()
	l := Listen(t, to, netip.AddrPortFrom(at, 0))
	conn, err := Dial(t.Context(), from, netip.AddrPortFrom(at, uint16(l.Addr().(*net.TCPAddr).Port)))
	require.NoError(t, err)
	defer conn.Close()
	end, err := l.Accept()
	require.NoError(t, err)
	defer end.Close()
	deadline := time.Now().Add(time.Minute)
	require.NoError(t, conn.SetDeadline(deadline))
	require.NoError(t, end.SetDeadline(deadline))
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(make([]byte, bytes))
		sent <- err
	}()
	begin := time.Now()
	n, err := io.CopyN(io.Discard, end, int64(bytes))
	took := time.Since(begin).Seconds()
	require.NoError(t, err)
	require.NoError(t, <-sent)
	return float64(n) * 8 / took
}

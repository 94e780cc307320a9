//go:build linux

package scratch

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"time"

	"github.com/cniblocks/cniblocks/internal/test/ping"
)

// retryDelay is the time until the next attempt where the kernel refuses to send yet.
const retryDelay = 100 * time.Microsecond

// Ping asks the address for an echo until one arrives, and returns the time since the call. lost reports whether that
// took more than one request. No reply until the timeout is an error.
func (p *Pod) Ping(dst netip.Addr, timeout time.Duration) (took time.Duration, lost bool, err error) {
	ns, err := p.NS()
	if err != nil {
		return 0, false, err
	}
	start := time.Now()
	for {
		asked := time.Now()
		err = ping.Echo(context.Background(), ns, dst, ping.Options{Timeout: timeout})
		if err == nil {
			return time.Since(start), time.Since(asked) >= ping.Interval, nil
		}
		if errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) > timeout {
			return 0, true, err
		}
		time.Sleep(retryDelay)
	}
}

//go:build linux

package nstest

import (
	"strings"
	"testing"
	"time"

	"github.com/cniblocks/cniblocks/netns"
)

// Settle waits until what the kernel adds by itself to a namespace whose links came up, link-local addresses and their
// routes, stands: until the dump has stayed the same for a while. Dumps that are compared begin here.
func Settle(t testing.TB, ns *netns.NS) {
	t.Helper()
	const quiet, most = 150 * time.Millisecond, time.Minute
	dump := func() string {
		var out strings.Builder
		dumpNetlink(ns, &out)
		return out.String()
	}
	last, since := dump(), time.Now()
	for begin := since; time.Since(since) < quiet; {
		if time.Since(begin) > most {
			t.Fatalf("namespace %s does not settle", ns.Path())
		}
		time.Sleep(10 * time.Millisecond)
		if now := dump(); now != last {
			last, since = now, time.Now()
		}
	}
}

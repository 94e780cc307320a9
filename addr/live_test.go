//go:build linux

package addr_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/addr"
)

func TestAnAddressThatABusyKernelAnswersForLateIsAwaited(t *testing.T) {
	t.Parallel()
	ns := linked(t)
	want := prefixes("192.0.2.1/24", "2001:db8::1/64")

	soon, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, addr.Live(soon, ns, want...), context.DeadlineExceeded)

	live := make(chan error, 1)
	go func() { live <- addr.Live(t.Context(), ns, want...) }()
	select {
	case err := <-live:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(4 * time.Second):
	}
	require.NoError(t, added(t, ns, want...)) // as if it had been there, and the kernel busy
	require.NoError(t, <-live)
}

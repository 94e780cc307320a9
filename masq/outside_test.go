//go:build linux

package masq_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/masq"
	"github.com/cniblocks/cniblocks/netns"
)

// memory is a backend from elsewhere. It keeps the last policy of each network.
type memory map[string]masq.Policy

func (m memory) Ensure(_ context.Context, p masq.Policy) error {
	m[p.Network] = p
	return nil
}

func (m memory) Check(_ context.Context, p masq.Policy) error {
	if _, ok := m[p.Network]; !ok {
		return errors.New("it is missing")
	}
	return nil
}

func (m memory) Retain(ctx context.Context, p masq.Policy, _ []string) error { return m.Ensure(ctx, p) }

func (memory) Forget(context.Context, string, string) error { return nil }

func (m memory) Remove(_ context.Context, network string) error {
	delete(m, network)
	return nil
}

func (m memory) List(context.Context) (all []masq.Policy, err error) {
	for _, p := range m {
		all = append(all, p)
	}
	return all, nil
}

func (memory) Name() string { return "memory" }

func TestABackendFromElsewhereTakesOverWhatOursHave(t *testing.T) {
	t.Parallel()
	nstest.Need(t, nstest.IPTables, nstest.IP6Tables)
	ns := nstest.New(t)
	for name, ours := range map[string]func(*netns.NS) masq.Backend{
		"a": func(ns *netns.NS) masq.Backend { return masq.NFT{NS: ns} },
		"b": func(ns *netns.NS) masq.Backend { return masq.IPTables{NS: ns} },
	} {
		b := ours(ns)
		p := masq.Policy{Network: name, Sources: []inet.Range{inet.RangeOf(netip.MustParsePrefix("10.1.0.0/24"))}}
		require.NoError(t, b.Ensure(t.Context(), p))
		var m masq.Backend = memory{}
		require.NoError(t, masq.Switch(t.Context(), ns, m, name))
		require.NoError(t, m.Check(t.Context(), p))
		require.Equal(t, memory{name: p}, m)
		list, err := b.List(t.Context())
		require.NoError(t, err)
		require.Empty(t, list)
	}
}

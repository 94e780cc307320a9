//go:build linux

package load

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/binaries"
	"github.com/cniblocks/cniblocks/internal/test/machine"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/ipam"
)

func TestMain(m *testing.M) { nstest.Main(m, binaries.Remove) }

const (
	attachments = 1000
	burst       = 200 // of them, all at once
	abreast     = 32  // of the others
)

// durations are those of calls of one kind.
type durations struct {
	mu  sync.Mutex
	all []time.Duration
}

func (d *durations) add(took time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = append(d.all, took)
}

func (d *durations) String() string {
	slices.Sort(d.all)
	at := func(p int) time.Duration {
		return d.all[min(len(d.all)*p/100, len(d.all)-1)].Round(100 * time.Microsecond)
	}
	return fmt.Sprintf("median %s, 90 %% %s, 99 %% %s, longest %s", at(50), at(90), at(99), at(100))
}

// each calls f for every pod, so many at once, and prints how long the calls took.
func each(t *testing.T, what string, pods []pod, atOnce int, f func(i int, p *pod) error) {
	t.Helper()
	var g errgroup.Group
	g.SetLimit(atOnce)
	var d durations
	begin := time.Now()
	for i := range pods {
		g.Go(func() error {
			begin := time.Now()
			err := f(i, &pods[i])
			d.add(time.Since(begin))
			return err
		})
	}
	require.NoError(t, g.Wait())
	took := time.Since(begin)
	t.Logf("%d %s, %d at once: %s in all, %.0f a second; %s", len(pods), what, atOnce, took.Round(time.Millisecond),
		float64(len(pods))/took.Seconds(), &d)
}

type pod struct {
	machine.Pod
	id     string
	result []byte
}

func TestAThousandPodsOnOneBridgeComeAndGoWithoutAFailure(t *testing.T) {
	m := machine.New(t)
	conf := `{"cniVersion":"1.1.0","name":"net","type":"bridge","bridge":"br0","isDefaultGateway":true,"ipMasq":true,
		"ipam":{"type":"host-local","dataDir":"` + m.Dir + `","ranges":[[{"subnet":"10.22.0.0/16"}],[{"subnet":"fd00:22::/64"}]]}}`
	pods := make([]pod, attachments)
	for i := range pods {
		p, err := m.Pod(fmt.Sprint("p", i))
		require.NoError(t, err)
		pods[i] = pod{Pod: p, id: fmt.Sprint("p", i)}
	}
	t.Cleanup(func() {
		for _, p := range pods {
			require.NoError(t, p.Close())
		}
	})
	call := func(verb cni.Verb) func(int, *pod) error {
		return func(_ int, p *pod) error {
			c := machine.Call{Verb: verb, ID: p.id, NetNS: p.Path, Conf: conf}
			if verb == cni.CHECK {
				c.Conf = machine.Check(conf, p.result)
			}
			out, err := m.Do(t.Context(), c)
			if verb == cni.ADD {
				p.result = out
			}
			return err
		}
	}
	for _, verb := range []cni.Verb{cni.ADD, cni.DEL} {
		require.NoError(t, call(verb)(0, &pods[0]))
	}
	nstest.Settle(t, m.NS)
	clean := nstest.Dump(m.NS)
	few, many := pods[:attachments-burst], pods[attachments-burst:]
	each(t, "ADDs", few, abreast, call(cni.ADD))
	each(t, "ADDs", many, burst, call(cni.ADD))
	holders := map[netip.Prefix]string{}
	for _, p := range pods {
		res, err := cni.ParseResult(p.result)
		require.NoError(t, err)
		require.Len(t, res.IPs, 2)
		for _, ip := range res.IPs {
			require.Empty(t, holders[ip.Address], "%s is given twice", ip.Address)
			holders[ip.Address] = p.id
		}
	}
	each(t, "CHECKs", few[:burst], abreast, call(cni.CHECK))
	var valid []string
	for _, p := range pods {
		valid = append(valid, p.id)
	}
	each(t, "GCs of nothing", pods[:8], 8, func(int, *pod) error {
		_, err := m.Do(t.Context(), machine.Call{Verb: cni.GC, Conf: machine.GC(conf, valid...)})
		return err
	})
	each(t, "DELs", many, burst, call(cni.DEL))
	each(t, "DELs", few, abreast, call(cni.DEL))
	held, err := m.Held("net")
	require.NoError(t, err)
	require.Empty(t, held)
	nstest.Settle(t, m.NS)
	require.Equal(t, clean, nstest.Dump(m.NS))
}

func TestASlash16IsFilledToItsLastAddressAndEmptied(t *testing.T) {
	t.Parallel()
	a := ipam.Allocator{Dir: ipam.Dir{DataDir: t.TempDir(), Network: "net"},
		Pools: []ipam.Pool{{{Subnet: netip.MustParsePrefix("10.22.0.0/16")}}}}
	owner := func(i int) ipam.Owner { return ipam.Owner{ContainerID: fmt.Sprintf("%064x", i), IfName: "eth0"} }
	const size = 1<<16 - 3 // without the network's, the gateway's and the broadcast address
	given := map[netip.Addr]bool{}
	begin := time.Now()
	for i := range size {
		leases, err := a.Allocate(t.Context(), owner(i))
		require.NoError(t, err)
		require.Len(t, leases, 1)
		require.False(t, given[leases[0].Addr.Addr()], leases)
		given[leases[0].Addr.Addr()] = true
	}
	t.Logf("%d leases in %s, %s each", size, time.Since(begin).Round(time.Millisecond), (time.Since(begin) / size).Round(time.Microsecond))
	for _, reserved := range []string{"10.22.0.0", "10.22.0.1", "10.22.255.255"} {
		require.NotContains(t, given, netip.MustParseAddr(reserved))
	}
	_, err := a.Allocate(t.Context(), owner(size))
	require.ErrorIs(t, err, ipam.ErrExhausted)
	held, err := a.Leases(t.Context())
	require.NoError(t, err)
	require.Len(t, held, size)

	require.NoError(t, a.Release(t.Context(), owner(4711)))
	last, err := a.Allocate(t.Context(), owner(size))
	require.NoError(t, err)
	require.True(t, given[last[0].Addr.Addr()])
	require.NoError(t, a.Release(t.Context(), owner(size)))

	begin = time.Now()
	for i := range size {
		require.NoError(t, a.Release(t.Context(), owner(i)))
	}
	t.Logf("%d released in %s, %s each", size, time.Since(begin).Round(time.Millisecond), (time.Since(begin) / size).Round(time.Microsecond))
	held, err = a.Leases(t.Context())
	require.NoError(t, err)
	require.Empty(t, held)
	entries, err := os.ReadDir(a.DataDir + "/net")
	require.NoError(t, err)
	for _, e := range entries {
		require.True(t, e.Name() == "lock" || strings.HasPrefix(e.Name(), "last_reserved_ip."), e.Name())
	}
}

//go:build linux

package kube_test

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/kube"
)

var errEnough = errors.New("enough")

const netConf = `{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}`

// want is what an agent that knows its name and its address asks for.
func (w *world) want(n string, i int) peer.Peer {
	return peer.Peer{Name: w.node(n), Reach: peer.Reach{V4: peer.Endpoint{Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})}}}
}

func (w *world) acquired(s *kube.Store, n string, i int) peer.Peer {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	p, err := s.Acquire(ctx, w.want(n, i))
	require.NoError(w.t, err)
	return p
}

func TestAcquireWaitsForTheRangesThatTheClusterAssigns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, api(t))
	w.add("a", nil)
	s := w.store(netConf)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := s.Acquire(ctx, w.want("a", 1))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "spec.podCIDRs")
	require.ErrorContains(t, err, "--allocate-node-cidrs")

	got := make(chan peer.Peer, 1)
	go func() { got <- w.acquired(s, "a", 1) }()
	_, err = w.api.Kubectl("", "patch", "node", w.node("a"), "-p", `{"spec":{"podCIDR":"10.244.1.0/24","podCIDRs":["10.244.1.0/24"]}}`)
	require.NoError(t, err)
	p := <-got
	require.Equal(t, w.node("a"), p.Name)
	require.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}, p.Pods)
	require.Equal(t, w.want("a", 1).Reach, p.Reach)
}

func TestAcquireKeepsTheMACAndTheAddressThatWerePublished(t *testing.T) {
	t.Parallel()
	w := newWorld(t, api(t))
	w.add("a", vxlan(7), "10.244.1.0/24")
	p := w.acquired(w.store(netConf), "a", 1)
	require.Equal(t, vxlanPeer("", 7).Reach, p.Reach)
}

func TestAcquireForgivesWhatIsWrongWithTheNodesOwnAnnotations(t *testing.T) {
	t.Parallel()
	w := newWorld(t, api(t))
	w.add("a", map[string]string{"kube-subnet-manager": "true", "backend-type": "udp", "public-ip": "nonsense", "backend-data": "{"}, "10.244.1.0/24")
	s := w.store(netConf)
	p := w.acquired(s, "a", 1)
	require.Equal(t, w.want("a", 1).Reach, p.Reach)
	require.NoError(t, s.Publish(t.Context(), vxlanPeer("", 1).Reach))
	require.Equal(t, vxlan(1), w.get("a").Metadata.Annotations)
}

func TestAcquireRefusesWhatCannotBe(t *testing.T) {
	t.Parallel()
	w := newWorld(t, api(t))
	w.add("elsewhere", nil, "10.9.1.0/24")
	w.add("four", nil, "10.244.1.0/24")
	w.add("ordered", map[string]string{"public-ip-overwrite": "here"}, "10.244.2.0/24")
	for _, c := range []struct{ node, config, want string }{
		{"nobody", netConf, "is not in the cluster"},
		{"elsewhere", netConf, "spec.podCIDRs 10.9.1.0/24 is not in the network 10.244.0.0/16"},
		{"four", `{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/48"}`, "spec.podCIDRs has no ipv6 range"},
		{"ordered", netConf, "public-ip-overwrite"},
	} {
		_, err := w.store(c.config).Acquire(t.Context(), w.want(c.node, 1))
		require.ErrorContains(t, err, w.node(c.node))
		require.ErrorContains(t, err, c.want)
	}
}

func TestNewNamesTheFileThatIsWrong(t *testing.T) {
	t.Parallel()
	bad := t.TempDir() + "/bad"
	require.NoError(t, os.WriteFile(bad, []byte("{"), 0o644))
	for _, c := range []struct {
		o    kube.Options
		want string
	}{
		{kube.Options{Kubeconfig: "/nonexistent/kubeconfig"}, "/nonexistent/kubeconfig"},
		{kube.Options{Kubeconfig: bad}, bad},
		{kube.Options{NetConf: "/nonexistent/net-conf.json"}, "/nonexistent/net-conf.json"},
		{kube.Options{NetConf: bad}, bad},
		{kube.Options{Prefix: "Not A Domain"}, "Not A Domain"},
		{kube.Options{}, "no kubeconfig is stated"},
	} {
		_, err := kube.New(c.o)
		require.ErrorContains(t, err, c.want)
	}
}

func TestPublishWritesItsOwnAnnotationsAloneAndOnlyWhatDiffers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, api(t))
	w.add("a", map[string]string{"other": "stays"}, "10.244.1.0/24")
	s := w.store(netConf)
	require.ErrorContains(t, s.Publish(t.Context(), vxlanPeer("", 1).Reach), "no ranges are acquired yet")
	w.acquired(s, "a", 1)
	require.NoError(t, s.Publish(t.Context(), vxlanPeer("", 1).Reach))

	want := vxlan(1)
	want["other"] = "stays"
	doc := w.get("a")
	require.Equal(t, want, doc.Metadata.Annotations)
	require.Len(t, doc.Status.Conditions, 1)
	c := doc.Status.Conditions[0]
	require.Equal(t, [3]string{"NetworkUnavailable", "False", "FlannelIsUp"}, [3]string{c.Type, c.Status, c.Reason})

	require.NoError(t, s.Publish(t.Context(), vxlanPeer("", 1).Reach))
	require.Equal(t, doc.Metadata.ResourceVersion, w.get("a").Metadata.ResourceVersion, "nothing was written")

	both := vxlanPeer("", 1).Reach
	both.V6 = peer.Endpoint{Addr: netip.MustParseAddr("2001:db8::1"), MAC: inet.MAC{2, 5: 6}, VNI: 1}
	require.NoError(t, s.Publish(t.Context(), both))
	maps.Copy(want, map[string]string{"public-ipv6": "2001:db8::1", "backend-v6-data": `{"VNI":1,"VtepMAC":"02:00:00:00:00:06"}`})
	require.Equal(t, want, w.get("a").Metadata.Annotations)
	require.NoError(t, s.Publish(t.Context(), peer.Reach{Encap: "host-gw", V4: both.V4}))
	require.Equal(t, map[string]string{"other": "stays", "kube-subnet-manager": "true", "backend-type": "host-gw",
		"backend-data": "null", "public-ip": "192.0.2.1"}, w.get("a").Metadata.Annotations)
}

func TestAnOverwriteAnnotationDecidesWhatIsPublished(t *testing.T) {
	t.Parallel()
	w := newWorld(t, api(t))
	w.add("a", map[string]string{"public-ip-overwrite": "198.51.100.7"}, "10.244.1.0/24")
	s := w.store(netConf)
	require.Equal(t, "198.51.100.7", w.acquired(s, "a", 1).V4.Addr.String())
	require.NoError(t, s.Publish(t.Context(), vxlanPeer("", 1).Reach))
	require.Equal(t, "198.51.100.7", w.get("a").Metadata.Annotations["public-ip"])
}

// losing runs Lost beside the test.
func losing(t *testing.T, s *kube.Store) <-chan error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	lost := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		lost <- s.Lost(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return lost
}

func TestWhatOthersRemoveIsPublishedAgainAndAnOrderIsFollowed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, api(t))
	w.add("a", nil, "10.244.1.0/24")
	s := w.store(netConf)
	w.acquired(s, "a", 1)
	require.NoError(t, s.Publish(t.Context(), vxlanPeer("", 1).Reach))
	lost := losing(t, s)
	has := func(name, value string) {
		require.Eventually(t, func() bool { return w.get("a").Metadata.Annotations[name] == value }, patience, 50*time.Millisecond)
	}
	w.annotate("a", map[string]string{"backend-data": "", "public-ip": "192.0.2.99"})
	has("backend-data", vxlan(1)["backend-data"])
	has("public-ip", "192.0.2.1")
	w.annotate("a", map[string]string{"public-ip-overwrite": "198.51.100.7"})
	has("public-ip", "198.51.100.7")
	require.Empty(t, lost)
}

func TestTheRangesAreLostWithTheNodeAndWithItsPlace(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]string{"gone": "", "with another range": "10.244.9.0/24", "with the same range": "10.244.1.0/24"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, api(t))
			w.add("a", nil, "10.244.1.0/24")
			line := &wire{dialer: w.api.Dial}
			config, err := w.api.Kubeconfig("")
			require.NoError(t, err)
			s := w.storeOf(kube.Options{Kubeconfig: config, Prefix: w.prefix}, line.dial)
			w.acquired(s, "a", 1)
			require.NoError(t, s.Publish(t.Context(), vxlanPeer("", 1).Reach))
			lost := losing(t, s)

			line.set(true)
			require.Never(t, func() bool { return len(lost) > 0 }, time.Second, 100*time.Millisecond)
			w.delete("a")
			if again != "" {
				w.add("a", nil, again)
			}
			line.set(false)
			select {
			case err := <-lost:
				require.ErrorIs(t, err, peer.ErrLost)
				require.ErrorContains(t, err, w.node("a"))
			case <-time.After(patience):
				require.FailNow(t, "the loss was not noticed")
			}
			require.ErrorIs(t, s.Publish(t.Context(), vxlanPeer("", 1).Reach), peer.ErrLost)
			if again != "" {
				require.Equal(t, again, w.acquired(s, "a", 1).Pods[0].String())
				require.NoError(t, s.Publish(t.Context(), vxlanPeer("", 1).Reach))
			}
		})
	}
}

func TestLostEndsWithItsContextAndTheRangesStay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, api(t))
	w.add("a", nil, "10.244.1.0/24")
	s := w.store(netConf)
	require.ErrorContains(t, s.Lost(t.Context()), "no ranges are acquired yet")
	p := w.acquired(s, "a", 1)
	ctx, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, errEnough)
	defer cancel()
	require.ErrorIs(t, s.Lost(ctx), errEnough)
	require.Equal(t, p, w.acquired(w.store(netConf), "a", 1))
}

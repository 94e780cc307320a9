package flannel_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

// otherRange is the node's file with another range.
func otherRange(env string) string {
	return strings.NewReplacer("SUBNET=10.244.1.1", "SUBNET=10.244.7.1", "SUBNET=fd00:10:244:1::1", "SUBNET=fd00:10:244:7::1").Replace(env)
}

func (w *world) requireGateways(want bool, gateways ...string) {
	w.t.Helper()
	dump := nstest.Dump(w.node)
	for _, g := range gateways {
		require.Equal(w.t, want, strings.Contains(dump, "address cni0 "+g+" "), g)
	}
}

func TestAFormerGatewayGoesWithTheLastPodWhenSubnetEnvGivesTheNodeAnotherRange(t *testing.T) {
	t.Parallel()
	former, present := []string{"10.244.1.1/24", "fd00:10:244:1::1/64"}, []string{"10.244.7.1/24", "fd00:10:244:7::1/64"}
	w := newWorld(t, dualStack)
	conf := w.conf(nil)
	a, b := w.pod("a"), w.pod("b")
	a.add(conf)
	b.add(conf)
	w.env(otherRange(dualStack))
	a.must(cni.DEL, conf)
	b.check(conf)
	w.requireGateways(true, former...)
	young := w.pod("young")
	young.add(conf)
	b.check(conf)
	w.requireGateways(true, append(former, present...)...)
	b.must(cni.DEL, conf)
	w.requireGateways(false, former...)
	young.check(conf)
}

func TestAFormerGatewayGoesWithTheLastPodThoughNoneCameAfter(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dualStack)
	conf := w.conf(nil)
	p := w.pod("a")
	p.add(conf)
	p.must(cni.DEL, conf)
	w.requireGateways(true, "10.244.1.1/24", "fd00:10:244:1::1/64") // it is this node's range
	p.add(conf)
	w.env("")
	p.must(cni.DEL, conf)
	w.requireGateways(true, "10.244.1.1/24", "fd00:10:244:1::1/64") // what the range is now nobody knows
	w.env(dualStack)
	p.add(conf)
	w.env(otherRange(dualStack))
	p.must(cni.DEL, conf)
	w.requireGateways(false, "10.244.1.1/24", "fd00:10:244:1::1/64")
}

func TestAFormerGatewayOfAPodThatWentUnseenGoesWithGCAndWithTheNextADD(t *testing.T) {
	t.Parallel()
	for name, next := range map[string]func(w *world, conf string){
		"GC":  func(w *world, conf string) { require.Zero(w.t, w.gc(conf).Status) },
		"ADD": func(w *world, conf string) { w.pod("next").add(conf) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, dualStack)
			conf := w.conf(nil)
			p := w.pod("a")
			p.add(conf)
			p.must(cni.DEL, conf)
			w.env(otherRange(dualStack))
			next(w, conf)
			w.requireGateways(false, "10.244.1.1/24", "fd00:10:244:1::1/64")
		})
	}
}

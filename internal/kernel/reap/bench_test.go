//go:build linux

package reap

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/veth"
)

func BenchmarkDelete(b *testing.B) {
	node, pod := nstest.New(b), nstest.New(b)
	d := plugin(b)
	for name, remove := range map[string]func(index int) error{
		"by a child": func(index int) error { return d.Delete(b.Context(), node, index) },
		"waiting":    func(index int) error { return veth.DeleteIndex(b.Context(), node, index) },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				p, err := veth.Create(b.Context(), veth.Pair{Host: veth.End{NS: node, Name: "veth1"}, Pod: veth.End{NS: pod, Name: "eth0"}})
				require.NoError(b, err)
				b.StartTimer()
				require.NoError(b, remove(p.Host.Index))
			}
		})
	}
}

//go:build linux

package etcd

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func leases(n int) []*mvccpb.KeyValue {
	all := make([]*mvccpb.KeyValue, n)
	for i := range all {
		all[i] = &mvccpb.KeyValue{CreateRevision: int64(i), ModRevision: int64(i), Key: fmt.Appendf(nil, "p/10.%d.%d.0-24", 1+i>>8, i&0xff),
			Value: fmt.Appendf(nil, `{"PublicIP":"172.16.%d.%d","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:%02x:%02x"}}`, i>>8, i&0xff, i>>8, i&0xff)}
	}
	return all
}

func BenchmarkReset5000(b *testing.B) {
	all := leases(5000)
	b.ReportAllocs()
	for b.Loop() {
		r := newCache("p/")
		r.reset(all)
		require.Len(b, r.order, len(all))
	}
}

func BenchmarkOneMoreOf5000(b *testing.B) {
	all := leases(5001)
	r := newCache("p/")
	r.reset(all[:5000])
	more := []*clientv3.Event{{Type: clientv3.EventTypePut, Kv: all[5000]}}
	less := []*clientv3.Event{{Type: clientv3.EventTypeDelete, Kv: &mvccpb.KeyValue{Key: all[5000].Key}}}
	b.ReportAllocs()
	for b.Loop() {
		require.True(b, r.apply(more))
		require.True(b, r.apply(less))
	}
}

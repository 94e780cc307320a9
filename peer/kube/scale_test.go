//go:build linux

package kube_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/cniblocks/cniblocks/internal/test/kubetest"
)

// fat is a Node of a cluster that has been used for a while: most of it are images.
func (w *world) fat(i int) []byte {
	var images []object
	for k := range 50 {
		images = append(images, object{"sizeBytes": 1 << 20, "names": []string{
			fmt.Sprintf("example.com/team/application-%d@sha256:%064d", k, i), fmt.Sprintf("example.com/team/application-%d:v1.%d", k, i)}})
	}
	pods := fmt.Sprintf("10.%d.%d.0/24", i>>8, i&0xff)
	doc := object{"apiVersion": "v1", "kind": "Node", "spec": object{"podCIDR": pods, "podCIDRs": []string{pods}},
		"status": object{"images": images}, "metadata": object{"name": w.node(strconv.Itoa(i)), "annotations": w.prefixed(map[string]string{
			"kube-subnet-manager": "true", "backend-type": "vxlan", "public-ip": fmt.Sprintf("172.16.%d.%d", i>>8, i&0xff),
			"backend-data": fmt.Sprintf(`{"VNI":1,"VtepMAC":"02:00:00:00:%02x:%02x"}`, i>>8, i&0xff),
		})}}
	b, err := json.Marshal(doc)
	require.NoError(w.t, err)
	return b
}

func TestAThousandNodesAreOneListAndAChangeOfOneIsYieldedAlone(t *testing.T) {
	t.Parallel()
	needPrograms(t)
	n := 1000
	if s := os.Getenv("CNIBLOCKS_TEST_NODES"); s != "" {
		var err error
		n, err = strconv.Atoi(s)
		require.NoError(t, err)
	}
	a, err := kubetest.Start(kubetest.Options{})
	require.NoError(t, err)
	t.Cleanup(a.Close)
	w := newWorld(t, a)
	var g errgroup.Group
	g.SetLimit(8)
	for i := range n {
		doc := w.fat(i)
		g.Go(func() error { return a.Do(http.MethodPost, "/api/v1/nodes", doc) })
	}
	require.NoError(t, g.Wait())

	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, begin := heap(), time.Now()
	all := watching(t, w.store(""))
	first := next(t, all)
	require.NoError(t, first.err)
	require.Len(t, first.peers, n)
	t.Logf("%d nodes after %s, %d kB of heap", n, first.when.Sub(begin).Round(time.Millisecond), int64(heap()-before)/1024)

	for i := range 5 {
		patch, err := json.Marshal(object{"metadata": object{"annotations": w.prefixed(map[string]string{
			"backend-data": fmt.Sprintf(`{"VNI":1,"VtepMAC":"02:00:00:01:00:%02x"}`, i)})}})
		require.NoError(t, err)
		begin := time.Now()
		require.NoError(t, a.Merge("/api/v1/nodes/"+w.node("7"), patch))
		change := next(t, all)
		require.NoError(t, change.err)
		require.Len(t, change.peers, n)
		t.Logf("a change is yielded %s after it was asked for", change.when.Sub(begin).Round(10*time.Microsecond))
	}
	require.Empty(t, all)
}

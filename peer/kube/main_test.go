//go:build linux

package kube_test

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/test/kubetest"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/kube"
)

func TestMain(m *testing.M) { nstest.Main(m, closeShared) }

// shared is the API server of those tests that leave it alone: each has Nodes and a prefix of annotations of its own.
var shared struct {
	sync.Mutex
	api *kubetest.API
	err error
}

func closeShared() {
	if shared.api != nil {
		shared.api.Close()
	}
}

// api is the shared API server, started by whoever needs it first.
func api(t *testing.T) *kubetest.API {
	t.Helper()
	needPrograms(t)
	shared.Lock()
	defer shared.Unlock()
	if shared.api == nil && shared.err == nil {
		shared.api, shared.err = kubetest.Start(kubetest.Options{})
	}
	require.NoError(t, shared.err)
	return shared.api
}

func needPrograms(t *testing.T) {
	t.Helper()
	nstest.NeedRoot(t)
	if _, err := exec.LookPath("etcd"); err != nil {
		t.Skipf("lane: %v; apt-get install etcd-server", err)
	}
}

// world is a test's share of a cluster.
type world struct {
	t      *testing.T
	api    *kubetest.API
	prefix string // of the annotations
	name   string // begins those of the Nodes
}

func newWorld(t *testing.T, a *kubetest.API) *world {
	word := fmt.Sprintf("t%08x", crc32.ChecksumIEEE([]byte(t.Name())))
	return &world{t: t, api: a, prefix: word + ".example.com", name: word}
}

// store is a Store for this world. A netConf that is not empty is what the file of that name holds.
func (w *world) store(netConf string) *kube.Store {
	w.t.Helper()
	config, err := w.api.Kubeconfig("")
	require.NoError(w.t, err)
	return w.storeOf(kube.Options{Kubeconfig: config, NetConf: w.file(netConf), Prefix: w.prefix}, w.api.Dial)
}

func (w *world) file(text string) string {
	w.t.Helper()
	if text == "" {
		return ""
	}
	path := filepath.Join(w.t.TempDir(), "net-conf.json")
	require.NoError(w.t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

func (w *world) storeOf(o kube.Options, dial dialer) *kube.Store {
	w.t.Helper()
	s, err := kube.NewAt(o, dial)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { require.NoError(w.t, s.Close()) })
	return s
}

// node is the name of a Node.
func (w *world) node(n string) string { return w.name + "-" + n }

type object = map[string]any

// add makes a Node with ranges and annotations, given without the prefix.
func (w *world) add(n string, annotations map[string]string, podCIDRs ...string) {
	w.t.Helper()
	spec := object{}
	if len(podCIDRs) > 0 {
		spec = object{"podCIDR": podCIDRs[0], "podCIDRs": podCIDRs}
	}
	doc := object{"apiVersion": "v1", "kind": "Node", "spec": spec,
		"metadata": object{"name": w.node(n), "annotations": w.prefixed(annotations)}}
	b, err := json.Marshal(doc)
	require.NoError(w.t, err)
	_, err = w.api.Kubectl(string(b), "create", "-f", "-")
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _, _ = w.api.Kubectl("", "delete", "node", w.node(n), "--ignore-not-found") })
}

func (w *world) prefixed(annotations map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range annotations {
		out[w.prefix+"/"+k] = v
	}
	return out
}

// annotate sets annotations of a Node; an empty value removes one.
func (w *world) annotate(n string, annotations map[string]string) {
	w.t.Helper()
	args := []string{"annotate", "--overwrite", "node", w.node(n)}
	for k, v := range w.prefixed(annotations) {
		if v == "" {
			args = append(args, k+"-")
		} else {
			args = append(args, k+"="+v)
		}
	}
	_, err := w.api.Kubectl("", args...)
	require.NoError(w.t, err)
}

func (w *world) delete(n string) {
	w.t.Helper()
	_, err := w.api.Kubectl("", "delete", "node", w.node(n))
	require.NoError(w.t, err)
}

type nodeDoc struct {
	Metadata struct {
		ResourceVersion string
		Annotations     map[string]string
	}
	Status struct {
		Conditions []struct{ Type, Status, Reason string }
	}
}

func (w *world) get(n string) (doc nodeDoc) {
	w.t.Helper()
	out, err := w.api.Kubectl("", "get", "node", w.node(n), "-o", "json")
	require.NoError(w.t, err)
	require.NoError(w.t, json.Unmarshal([]byte(out), &doc))
	for k, v := range doc.Metadata.Annotations {
		if rest, ok := strings.CutPrefix(k, w.prefix+"/"); ok {
			delete(doc.Metadata.Annotations, k)
			doc.Metadata.Annotations[rest] = v
		}
	}
	return doc
}

// vxlan are the annotations of a node as flannel writes them, number i of the test.
func vxlan(i int) map[string]string {
	return map[string]string{
		"kube-subnet-manager": "true", "backend-type": "vxlan", "public-ip": fmt.Sprintf("192.0.2.%d", i),
		"backend-data": fmt.Sprintf(`{"VNI":1,"VtepMAC":"02:00:00:00:00:%02x"}`, i),
	}
}

func vxlanPeer(name string, i int) peer.Peer {
	return peer.Peer{
		Name: name, Pods: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i))},
		Reach: peer.Reach{Encap: "vxlan", V4: peer.Endpoint{
			Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), MAC: inet.MAC{2, 5: byte(i)}, VNI: 1,
		}},
	}
}

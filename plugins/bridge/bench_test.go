package bridge_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/plugins/bridge"
	"github.com/cniblocks/cniblocks/plugins/hostlocal"
)

// BenchmarkADD measures the verb without the start of a process; make bench measures both, beside the reference.
func BenchmarkADD(b *testing.B) {
	for _, masq := range []string{"false", "true"} {
		b.Run("ipMasq="+masq, func(b *testing.B) {
			nstest.NeedRoot(b)
			node, pod, dir := nstest.New(b), nstest.New(b), b.TempDir()
			conf := `{"cniVersion":"1.0.0","name":"bench","type":"bridge","bridge":"br0","isGateway":true,"isDefaultGateway":true,"ipMasq":` + masq +
				`,"ipam":{"type":"host-local","subnet":"10.1.0.0/16","dataDir":"` + dir + `"}}`
			env := map[string]string{"CNI_CONTAINERID": "c", "CNI_NETNS": fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), pod.Fd()), "CNI_IFNAME": "eth0", "CNI_PATH": dir}
			call := func(verb cni.Verb) {
				env["CNI_COMMAND"] = string(verb)
				var out, errs bytes.Buffer
				if cni.Run(context.Background(), bridge.Plugin{}, cni.Delegates{"host-local": hostlocal.Plugin{}},
					func(k string) string { return env[k] }, strings.NewReader(conf), &out, &errs) != 0 {
					b.Fatal(out.String(), errs.String())
				}
			}
			err := node.Do(func() error {
				call(cni.ADD)
				call(cni.DEL)
				for b.Loop() {
					call(cni.ADD)
					b.StopTimer()
					call(cni.DEL)
					b.StartTimer()
				}
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
		})
	}
}

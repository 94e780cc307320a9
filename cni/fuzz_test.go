package cni_test

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
)

// FuzzRequest calls a plugin with any environment and configuration: the answer is what the specification has, never a
// panic, and no name that could become a path elsewhere reaches the plugin.
func FuzzRequest(f *testing.F) {
	for _, conf := range []string{netconf, withIPAM, `{"cniVersion": "0.2.0", "name": "n"}`, `{"cniVersion": "1.1.0", "name": "n", "prevResult": {"ips": [{"address": "10.0.0.2/24"}]}}`,
		`{"cniVersion": "1.1.0", "name": "n", "list": [{"id": 1}], "brdge": "x", "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "b"}]}`, `{`, ``} {
		for _, verb := range []string{"ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"} {
			f.Add(verb, "c1", "/run/netns/c1", "eth0", "IP=10.0.0.2;MAC=0a:58:0a:f4:01:02", "/opt/cni/bin", []byte(conf))
		}
	}
	f.Fuzz(func(t *testing.T, verb, id, ns, ifName, args, path string, conf []byte) {
		env := map[string]string{"CNI_COMMAND": verb, "CNI_CONTAINERID": id, "CNI_NETNS": ns, "CNI_IFNAME": ifName, "CNI_ARGS": args, "CNI_PATH": path}
		look := func(_ context.Context, r *cni.Request) error {
			var c struct {
				Bridge string `json:"bridge"`
				List   []struct {
					ID *int `json:"id"`
				} `json:"list"`
				Routes []cni.Route `json:"routes"`
			}
			require.True(t, cni.ValidName(r.Network))
			if slices.Contains([]cni.Verb{cni.ADD, cni.DEL, cni.CHECK}, r.Verb) {
				require.True(t, cni.ValidName(r.ContainerID) && cni.ValidIfName(r.IfName))
			}
			if _, err := r.IPAM(); err != nil {
				require.NotEqual(t, cni.ErrInternal, cni.CodeOf(err))
			}
			return r.Decode(&c)
		}
		p := fake{del: look, check: look, status: look, gc: look, add: func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
			if r.Prev != nil {
				return r.Prev, look(ctx, r)
			}
			return &cni.Result{}, look(ctx, r)
		}}
		var out, errs bytes.Buffer
		status := cni.Run(t.Context(), p, nil, func(k string) string { return env[k] }, bytes.NewReader(conf), &out, &errs)
		if status == 0 && out.Len() == 0 {
			return
		}
		var a struct {
			Version string   `json:"cniVersion"`
			Code    cni.Code `json:"code"`
			Msg     string   `json:"msg"`
		}
		require.NoError(t, json.Unmarshal(out.Bytes(), &a), "%s", out.String())
		if status != 0 {
			require.NotEqual(t, cni.ErrInternal, a.Code, a.Msg)
			require.NotEmpty(t, a.Msg)
			require.Contains(t, cni.Versions, a.Version)
		}
	})
}

// FuzzResult reads any text as a result: what is accepted comes back the same from every version that can say it.
func FuzzResult(f *testing.F) {
	for _, version := range cni.Versions {
		b, err := full().Encode(version)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, s := range []string{`{}`, `null`, `{"cniVersion": "0.4.0", "ips": [{}]}`, `{"cniVersion": "0.2.0", "ip4": {}}`, `{"cniVersion": "0.3.1", "ips": [{"version": "4", "interface": 7}], "routes": [{}]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := cni.ParseResult(b)
		if err != nil {
			require.Contains(t, []cni.Code{cni.ErrDecode, cni.ErrVersion}, cni.CodeOf(err))
			return
		}
		for _, version := range cni.Versions {
			b, err := r.Encode(version)
			if err != nil {
				require.Equal(t, cni.ErrVersion, cni.CodeOf(err))
				require.NotEqual(t, "1.1.0", version)
				continue
			}
			again, err := cni.ParseResult(b)
			require.NoError(t, err, "%s", b)
			if version == "1.1.0" {
				second, err := again.Encode(version)
				require.NoError(t, err)
				require.Equal(t, string(b), string(second))
			}
		}
	})
}

// FuzzArgs reads any CNI_ARGS: the first value of each key is found, and no other.
func FuzzArgs(f *testing.F) {
	for _, s := range []string{"", "A=1", "A=1;B=2", "IgnoreUnknown=1;K8S_POD_NAME=x;IP=10.0.0.2", ";;=;", "A", "A=1;A=2", "a=b=c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, args string) {
		r, err := cni.NewRequest(environ(cni.ADD, "CNI_ARGS="+args), strings.NewReader(netconf))
		if err != nil {
			require.Equal(t, cni.ErrEnvironment, cni.CodeOf(err))
			return
		}
		want, wrong := map[string]string{}, false
		for _, pair := range strings.Split(args, ";") {
			k, v, ok := strings.Cut(pair, "=")
			wrong = wrong || pair != "" && !ok
			if _, before := want[k]; ok && !before {
				want[k] = v
			}
		}
		require.Equal(t, wrong, r.CheckArgs() != nil)
		for k, v := range want {
			got, ok := r.Arg(k)
			require.True(t, ok)
			require.Equal(t, v, got)
		}
		_, ok := r.Arg("no such key;")
		require.False(t, ok)
	})
}

package cni_test

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
)

// fake is a plugin of functions; those that are nil do nothing.
type fake struct {
	add                    func(context.Context, *cni.Request) (*cni.Result, error)
	del, check, status, gc func(context.Context, *cni.Request) error
}

func (f fake) Add(ctx context.Context, r *cni.Request) (*cni.Result, error) {
	if f.add == nil {
		return &cni.Result{}, nil
	}
	return f.add(ctx, r)
}

func (f fake) Del(ctx context.Context, r *cni.Request) error    { return call(ctx, r, f.del) }
func (f fake) Check(ctx context.Context, r *cni.Request) error  { return call(ctx, r, f.check) }
func (f fake) Status(ctx context.Context, r *cni.Request) error { return call(ctx, r, f.status) }
func (f fake) GC(ctx context.Context, r *cni.Request) error     { return call(ctx, r, f.gc) }

func call(ctx context.Context, r *cni.Request, f func(context.Context, *cni.Request) error) error {
	if f == nil {
		return nil
	}
	return f(ctx, r)
}

// environ is that of a call; what is changed is given as KEY=VALUE, or KEY alone to leave it out.
func environ(verb cni.Verb, changes ...string) func(string) string {
	env := map[string]string{"CNI_COMMAND": string(verb), "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1",
		"CNI_IFNAME": "eth0", "CNI_PATH": "/opt/cni/bin"}
	for _, c := range changes {
		k, v, _ := strings.Cut(c, "=")
		env[k] = v
	}
	return func(k string) string { return env[k] }
}

const netconf = `{"cniVersion": "1.1.0", "name": "net", "type": "fake", "cni.dev/valid-attachments": []}`

// answer is what a run printed.
type answer struct {
	status     int
	out, errs  string
	Version    string          `json:"cniVersion"`
	Code       cni.Code        `json:"code"`
	Msg        string          `json:"msg"`
	Details    string          `json:"details"`
	Supported  []string        `json:"supportedVersions"`
	Interfaces json.RawMessage `json:"interfaces"`
}

func run(t *testing.T, p cni.Plugin, env func(string) string, conf string) (a answer) {
	t.Helper()
	var out, errs bytes.Buffer
	a.status = cni.Run(t.Context(), p, nil, env, strings.NewReader(conf), &out, &errs)
	a.out, a.errs = out.String(), errs.String()
	if out.Len() > 0 {
		require.NoError(t, json.Unmarshal(out.Bytes(), &a), "%s", a.out)
	}
	return a
}

// request is one as a plugin gets it.
func request(t *testing.T, verb cni.Verb, conf string, changes ...string) *cni.Request {
	t.Helper()
	r, err := cni.NewRequest(environ(verb, changes...), strings.NewReader(conf))
	require.NoError(t, err)
	return r
}

package cni_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/version"
	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
)

func TestEveryVerbReachesThePluginAndItsAnswerIsPrinted(t *testing.T) {
	t.Parallel()
	var called []string
	note := func(_ context.Context, r *cni.Request) error { called = append(called, string(r.Verb)); return nil }
	p := fake{add: func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
		return &cni.Result{Interfaces: []cni.Interface{{Name: r.IfName}}}, note(ctx, r)
	}, del: note, check: note, status: note, gc: note}
	for _, verb := range []cni.Verb{cni.ADD, cni.DEL, cni.CHECK, cni.STATUS, cni.GC} {
		a := run(t, p, environ(verb), netconf)
		require.Zero(t, a.status)
		require.Empty(t, a.errs)
		if verb == cni.ADD {
			require.JSONEq(t, `{"cniVersion": "1.1.0", "interfaces": [{"name": "eth0"}]}`, a.out)
		} else {
			require.Empty(t, a.out, verb)
		}
	}
	require.Equal(t, []string{"ADD", "DEL", "CHECK", "STATUS", "GC"}, called)
}

func TestVERSIONIsWhatTheSpecificationsLibraryExpects(t *testing.T) {
	t.Parallel()
	for _, conf := range []string{"", `{"cniVersion": "1.0.0"}`, `{"cniVersion": "9.9.9"}`, `{}`} {
		a := run(t, fake{}, environ(cni.VERSION), conf)
		require.Zero(t, a.status)
		require.Equal(t, cni.Versions, a.Supported)
		info, err := (&version.PluginDecoder{}).Decode([]byte(a.out))
		require.NoError(t, err)
		require.Equal(t, cni.Versions, info.SupportedVersions())
	}
	require.Equal(t, "9.9.9", run(t, fake{}, environ(cni.VERSION), `{"cniVersion": "9.9.9"}`).Version)
}

func TestAnErrorIsPrintedAsTheSpecificationHasIt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		code cni.Code
		msg  string
	}{
		{cni.Errorf(cni.ErrTryAgain, "pool %s: %w", "x", fs.ErrExist), 11, "pool x: file already exists"},
		{fmt.Errorf("outer: %w", cni.Errorf(cni.ErrUnknownContainer, "inner")), 3, "outer: inner"},
		{errors.Join(errors.New("one"), cni.Errorf(cni.ErrConfig, "two")), 7, "one; two"},
		{errors.Join(fmt.Errorf("write /a: %w", fs.ErrPermission), fs.ErrPermission), 5, "write /a: permission denied"},
		{fs.ErrPermission, 5, "permission denied"},
		{fmt.Errorf("wait: %w", context.DeadlineExceeded), 11, "wait: context deadline exceeded"},
		{context.Canceled, 11, "context canceled"},
	} {
		for _, verb := range []cni.Verb{cni.ADD, cni.DEL, cni.CHECK, cni.STATUS, cni.GC} {
			fail := func(context.Context, *cni.Request) error { return c.err }
			p := fake{add: func(context.Context, *cni.Request) (*cni.Result, error) { return nil, c.err }, del: fail, check: fail, status: fail, gc: fail}
			a := run(t, p, environ(verb), netconf)
			require.Equal(t, 1, a.status)
			require.Equal(t, c.code, a.Code)
			require.Equal(t, c.msg, a.Msg)
			require.Equal(t, "1.1.0", a.Version)
			require.Contains(t, a.errs, c.msg)
		}
	}
	a := run(t, fake{}, environ(cni.ADD), `{"cniVersion": "0.4.0", "name": "../x"}`)
	require.Equal(t, []any{"0.4.0", cni.ErrConfig}, []any{a.Version, a.Code}, "in the version of the configuration")
	a = run(t, fake{}, environ("nonsense"), netconf)
	require.Equal(t, []any{"1.1.0", cni.ErrEnvironment}, []any{a.Version, a.Code})
}

func TestWrappedErrorsAreStillFound(t *testing.T) {
	t.Parallel()
	one, two := errors.New("one"), errors.New("two")
	err := cni.Errorf(cni.ErrIO, "%w and %w", one, two)
	require.ErrorIs(t, err, one)
	require.ErrorIs(t, err, two)
	require.Equal(t, "one and two", err.Error())
	var e *cni.Error
	require.ErrorAs(t, fmt.Errorf("x: %w", err), &e)
	require.Equal(t, cni.ErrIO, e.Code)
	require.Equal(t, "a; b", (&cni.Error{Msg: "a", Details: "b"}).Error())
}

func TestAPanicIsCode999WithItsStack(t *testing.T) {
	t.Parallel()
	p := fake{add: func(context.Context, *cni.Request) (*cni.Result, error) {
		var none []int
		return nil, errors.New(string(rune(none[len(netconf)])))
	},
		del: func(context.Context, *cni.Request) error { panic("on purpose") }}
	a := run(t, p, environ(cni.ADD), netconf)
	require.Equal(t, []any{1, cni.ErrInternal}, []any{a.status, a.Code})
	require.Contains(t, a.Msg, "bug in the plugin: runtime error: index out of range")
	require.Contains(t, a.Details, "TestAPanicIsCode999WithItsStack")
	a = run(t, p, environ(cni.DEL), netconf)
	require.Equal(t, cni.ErrInternal, a.Code)
	require.Contains(t, a.Msg, "on purpose")
	a = run(t, fake{add: func(context.Context, *cni.Request) (*cni.Result, error) { return nil, nil }}, environ(cni.ADD), netconf)
	require.Equal(t, cni.ErrInternal, a.Code, "neither a result nor an error")
}

func TestWarningsGoToStandardErrorAndIntoWhatSTATUSSays(t *testing.T) {
	t.Parallel()
	warn := func(_ context.Context, r *cni.Request) error { r.Warn("key %q", "x"); return nil }
	a := run(t, fake{check: warn}, environ(cni.CHECK), netconf)
	require.Zero(t, a.status)
	require.Equal(t, "warning: key \"x\"\n", a.errs)
	a = run(t, fake{status: warn}, environ(cni.STATUS), netconf)
	require.Zero(t, a.status)
	a = run(t, fake{status: func(ctx context.Context, r *cni.Request) error {
		_ = warn(ctx, r)
		return cni.Errorf(cni.ErrLimited, "full")
	}}, environ(cni.STATUS), netconf)
	require.Equal(t, []any{cni.ErrLimited, "full"}, []any{a.Code, a.Msg})
	require.Contains(t, a.Details, `key \"x\"`)
}

func TestAnADDWhoseResultTheVersionCannotSayIsTakenBack(t *testing.T) {
	t.Parallel()
	var dels []*cni.Request
	p := fake{del: func(_ context.Context, r *cni.Request) error { dels = append(dels, r); return nil }}
	a := run(t, p, environ(cni.ADD), `{"cniVersion": "0.2.0", "name": "net"}`)
	require.Equal(t, []any{1, cni.ErrVersion}, []any{a.status, a.Code})
	require.Equal(t, "cannot convert: no valid IP addresses", a.Msg)
	require.Contains(t, a.Details, "no form in CNI 0.2.0")
	require.Len(t, dels, 1)
	require.Equal(t, cni.DEL, dels[0].Verb)
}

func TestAnAnswerThatNobodyReadsIsAFailure(t *testing.T) {
	t.Parallel()
	var errs bytes.Buffer
	status := cni.Run(t.Context(), fake{}, nil, environ(cni.VERSION), strings.NewReader(""), closed{}, &errs)
	require.Equal(t, 1, status)
	require.Contains(t, errs.String(), "file already closed")
}

func TestAnADDWhoseResultNobodyReadsIsTakenBack(t *testing.T) {
	t.Parallel()
	dels := 0
	p := fake{del: func(context.Context, *cni.Request) error { dels++; return errors.New("no way back") }}
	var errs bytes.Buffer
	require.Equal(t, 1, cni.Run(t.Context(), p, nil, environ(cni.ADD), strings.NewReader(netconf), closed{}, &errs))
	require.Equal(t, 1, dels)
	require.Contains(t, errs.String(), "print the result: file already closed")
	require.Contains(t, errs.String(), "no way back")
}

type closed struct{}

func (closed) Write([]byte) (int, error) { return 0, fs.ErrClosed }

func TestDecodeNamesTheKeyAndSuggestsTheNearest(t *testing.T) {
	t.Parallel()
	type conf struct {
		Bridge string `json:"bridge"`
		MTU    int    `json:"mtu"`
		Nested struct {
			Inner bool `json:"inner"`
		} `json:"nested"`
		List []struct {
			ID *int `json:"id"`
		} `json:"list"`
	}
	decode := func(text string) (*cni.Request, conf, error) {
		var c conf
		r := request(t, cni.ADD, `{"cniVersion": "1.0.0", "name": "net", `+text+`}`)
		return r, c, r.Decode(&c)
	}
	for text, says := range map[string]string{
		`"bridge": 1`:                `key "bridge" is a JSON number; want a string`,
		`"mtu": "x"`:                 `key "mtu" is a JSON string; want a whole number`,
		`"mtu": 1.5`:                 `key "mtu" is a JSON number 1.5; want a whole number`,
		`"mtu": true`:                `key "mtu" is a JSON bool; want a whole number`,
		`"nested": {"inner": "yes"}`: `key "nested.inner" is a JSON string; want true or false`,
		`"nested": []`:               `key "nested" is a JSON array; want an object`,
		`"list": {}`:                 `key "list" is a JSON object; want a list`,
		`"list": [{"id": "x"}]`:      `key "list.id" is a JSON string; want a whole number`,
	} {
		_, _, err := decode(text)
		require.ErrorContains(t, err, says)
		require.Equal(t, cni.ErrConfig, cni.CodeOf(err))
	}
	r, _, err := decode(`"brige": "x", "zzzzzzzzzzzz": 1, "nested": {"iner": true}, "list": [{"di": 1}, {"id": 2}], "bridge_": null,
		"args": {"anything": 1}, "runtimeConfig": {"anything": 1}, "io.kubernetes.cri": 1, "cni.dev/x": 1, "capabilities": {}, "dns": {}, "cniVersions": []`)
	require.NoError(t, err)
	require.Equal(t, []string{
		`netconf: key "bridge_" is not known and ignored; did you mean "bridge"?`,
		`netconf: key "brige" is not known and ignored; did you mean "bridge"?`,
		`netconf: key "list.di" is not known and ignored; did you mean "id"?`,
		`netconf: key "nested.iner" is not known and ignored; did you mean "inner"?`,
		`netconf: key "zzzzzzzzzzzz" is not known and ignored`,
	}, r.Warnings())
}

func TestWarningsOfUnknownKeysAreBounded(t *testing.T) {
	t.Parallel()
	keys := map[string]any{"cniVersion": "1.0.0", "name": "net", strings.Repeat("k", 1<<20): 1}
	for i := range 20000 {
		keys[fmt.Sprint("key", i)] = 1
	}
	b, err := json.Marshal(keys)
	require.NoError(t, err)
	r := request(t, cni.ADD, string(b))
	require.NoError(t, r.Decode(&struct{}{}))
	require.Len(t, r.Warnings(), 20)
	r = request(t, cni.ADD, `{"cniVersion": "1.0.0", "name": "net", "`+strings.Repeat("k", 1<<20)+`": 1}`)
	require.NoError(t, r.Decode(&struct{}{}))
	require.Less(t, len(r.Warnings()[0]), 200)
}

func TestAnIPAMPluginJudgesItsOwnPartOnly(t *testing.T) {
	t.Parallel()
	var c struct {
		IPAM struct {
			Subnet string `json:"subnet"`
		} `json:"ipam"`
	}
	r := request(t, cni.ADD, `{"cniVersion": "1.0.0", "name": "net", "bridge": "br0", "ipam": {"type": "x", "subnt": "y"}}`)
	require.NoError(t, r.DecodeIPAM(&c))
	require.Len(t, r.Warnings(), 2)
	require.Contains(t, strings.Join(r.Warnings(), "\n"), `key "ipam.subnt" is not known and ignored; did you mean "subnet"?`)
	r = request(t, cni.ADD, `{"cniVersion": "1.0.0", "name": "net", "ipam": {"subnet": 7}}`)
	require.ErrorContains(t, r.DecodeIPAM(&c), `key "ipam.subnet" is a JSON number; want a string`)
}

func TestWhatIsSaidOfAHugeValueIsBounded(t *testing.T) {
	t.Parallel()
	huge := strings.Repeat("ä", 1<<20)
	a := run(t, fake{del: func(_ context.Context, r *cni.Request) error {
		r.Warn("key is %s", huge)
		return cni.Errorf(cni.ErrConfig, "key %s", huge)
	}}, environ(cni.DEL), netconf)
	require.Equal(t, 1, a.status)
	require.Less(t, len(a.out)+len(a.errs), 32<<10)
	var e cni.Error
	require.NoError(t, json.Unmarshal([]byte(a.out), &e))
	require.Contains(t, e.Msg, "key ää")
	require.True(t, strings.HasSuffix(e.Msg, "ää ..."))
}

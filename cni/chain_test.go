package cni_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
)

const chained = `{"cniVersion": "VERSION", "name": "net", "type": "chained", "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}] PREV}`

const chainedPrev = `, "prevResult": {"cniVersion": "VERSION", "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/x"}],
	"ips": [{"version": "4", "interface": 0, "address": "10.1.0.2/24"}], "dns": {"domain": "example.com"}}`

// runChain runs a chained plugin and returns its status and what it printed.
func runChain(t *testing.T, c cni.Chain, verb cni.Verb, version, prev string) (status int, out string) {
	t.Helper()
	env := map[string]string{"CNI_COMMAND": string(verb), "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_PATH": "/nowhere", "CNI_NETNS": "/x"}
	if verb == cni.DEL {
		env["CNI_NETNS"] = ""
	}
	conf := strings.NewReplacer("PREV", prev, "VERSION", version).Replace(chained)
	conf = strings.ReplaceAll(conf, "VERSION", version)
	var stdout, stderr strings.Builder
	status = cni.Run(t.Context(), c, nil, func(k string) string { return env[k] }, strings.NewReader(conf), &stdout, &stderr)
	return status, stdout.String()
}

func TestAChainedPluginPassesTheResultOnInItsVersion(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		c := cni.Chain{Apply: func(_ context.Context, r *cni.Request) error {
			require.Equal(t, "10.1.0.2/24", r.PrevIPs()[0].Address.String())
			r.Prev.DNS.Domain = "changed.example"
			return nil
		}}
		status, out := runChain(t, c, cni.ADD, version, chainedPrev)
		require.Zero(t, status, out)
		res, err := cni.ParseResult([]byte(out))
		require.NoError(t, err)
		require.Equal(t, "changed.example", res.DNS.Domain)
		require.Equal(t, "eth0", res.Interfaces[0].Name)
		require.Contains(t, out, `"cniVersion":"`+version+`"`)
	}
}

func TestAChainedPluginNeedsAPrevResultForADDAndCHECKAlone(t *testing.T) {
	t.Parallel()
	called := ""
	deed := func(name string) func(context.Context, *cni.Request) error {
		return func(context.Context, *cni.Request) error { called += name; return nil }
	}
	c := cni.Chain{Apply: deed("a"), Verify: deed("v"), Revoke: deed("r"), Retain: deed("g"), Ready: deed("s")}
	for verb, want := range map[cni.Verb]string{cni.ADD: "CONFLIST", cni.CHECK: "CHECK needs the result of the ADD"} {
		status, out := runChain(t, c, verb, "1.1.0", "")
		require.Equal(t, 1, status)
		require.Contains(t, out, `"code":7`)
		require.Contains(t, strings.ToUpper(out), strings.ToUpper(want))
	}
	require.Empty(t, called)
	for _, verb := range []cni.Verb{cni.DEL, cni.GC, cni.STATUS} {
		status, out := runChain(t, c, verb, "1.1.0", "")
		require.Zero(t, status, out)
	}
	require.Equal(t, "rgs", called)
	for _, verb := range []cni.Verb{cni.ADD, cni.CHECK, cni.DEL, cni.GC, cni.STATUS} {
		status, out := runChain(t, cni.Chain{}, verb, "1.1.0", chainedPrev)
		require.Zero(t, status, "%s of one that does nothing: %s", verb, out)
	}
}

func TestAnApplyThatFailsIsRevokedWithADeadlineOfItsOwn(t *testing.T) {
	t.Parallel()
	revoked := false
	c := cni.Chain{
		Apply: func(context.Context, *cni.Request) error { return errors.New("no room") },
		Revoke: func(ctx context.Context, _ *cni.Request) error {
			deadline, ok := ctx.Deadline()
			require.True(t, ok)
			require.Positive(t, time.Until(deadline))
			revoked = true
			return errors.New("nor is there a way back")
		},
	}
	status, out := runChain(t, c, cni.ADD, "1.1.0", chainedPrev)
	require.Equal(t, 1, status)
	require.True(t, revoked)
	require.Contains(t, out, "no room; nor is there a way back")
}

func TestSTATUSHasOneAnswerForWhatKeepsAnADDFromSucceeding(t *testing.T) {
	t.Parallel()
	require.NoError(t, cni.Unavailable(nil))
	for err, want := range map[error]cni.Code{
		errors.New("no device"):                           cni.ErrNotAvailable,
		cni.Errorf(cni.ErrTryAgain, "later"):              cni.ErrNotAvailable,
		context.DeadlineExceeded:                          cni.ErrNotAvailable,
		cni.Errorf(cni.ErrLimited, "pods suffer"):         cni.ErrLimited,
		cni.Errorf(cni.ErrConfig, "netconf: a key"):       cni.ErrConfig,
		cni.Errorf(cni.ErrUnsupportedField, "netconf: x"): cni.ErrUnsupportedField,
	} {
		got := cni.Unavailable(err)
		require.Equal(t, want, cni.CodeOf(got))
		require.ErrorIs(t, got, err)
	}
	status, out := runChain(t, cni.Chain{Ready: func(context.Context, *cni.Request) error { return errors.New("no device") }}, cni.STATUS, "1.1.0", "")
	require.Equal(t, 1, status)
	require.Contains(t, out, `"code":50`)
}

func TestADelegateIsHandedDownWhatTheSpecificationSays(t *testing.T) {
	t.Parallel()
	r, err := (&cni.Request{Verb: cni.ADD}).With(cni.ADD, []byte(`{"cniVersion": "1.0.0", "name": "outer", "type": "meta", "mtu": 1, "args": {"x": 1},
		"runtimeConfig": {"mac": "m"}, "dns": {"domain": "outer"}, "cni.dev/valid-attachments": [], "delegate": {}}`))
	require.NoError(t, err)
	delegate := map[string]json.RawMessage{"type": []byte(`"main"`), "name": []byte(`"inner"`), "cniVersion": []byte(`"0.1.0"`), "dns": []byte(`{}`)}
	require.NoError(t, r.HandDown(delegate))
	b, err := json.Marshal(delegate)
	require.NoError(t, err)
	require.JSONEq(t, `{"cniVersion": "1.0.0", "name": "outer", "type": "main", "args": {"x": 1}, "runtimeConfig": {"mac": "m"}, "dns": {},
		"cni.dev/valid-attachments": []}`, string(b))
	delete(delegate, "dns")
	require.NoError(t, r.HandDown(delegate))
	require.JSONEq(t, `{"domain": "outer"}`, string(delegate["dns"]))
}

// Inner is embedded, as the keys that several plugins have are.
type Inner struct {
	MTU  int `json:"mtu"`
	Deep struct {
		On bool `json:"on"`
	} `json:"deep"`
}

func TestOfAConfigurationThatBecameWrongEveryKeyIsReadThatCanBe(t *testing.T) {
	t.Parallel()
	var v struct {
		Inner
		Bridge string       `json:"bridge"`
		Net    netip.Prefix `json:"net"`
		List   []int        `json:"list"`
	}
	r, err := (&cni.Request{Verb: cni.DEL}).With(cni.DEL, []byte(`{"cniVersion": "1.0.0", "name": "n", "bridge": "br0", "net": "nonsense", "mtu": "x",
		"deep": {"on": true}, "list": [1, "x"], "unknown": 1}`))
	require.NoError(t, err)
	require.Error(t, r.Decode(&v))
	require.NoError(t, r.DecodeLeast(&v))
	require.Equal(t, "br0", v.Bridge)
	require.True(t, v.Deep.On)
	require.Zero(t, v.MTU)
	require.False(t, v.Net.IsValid())
}

func TestAnErrorNamesTheKeyAsTheConfigurationHasItAlsoOfEmbeddedStructs(t *testing.T) {
	t.Parallel()
	for conf, want := range map[string]string{`"mtu": "x"`: `key "mtu" is a JSON string`, `"deep": {"on": 3}`: `key "deep.on" is a JSON number`, `"bridge": 1`: `key "bridge" is`} {
		var v struct {
			Inner
			Bridge string `json:"bridge"`
		}
		r, err := (&cni.Request{Verb: cni.ADD}).With(cni.ADD, []byte(`{"cniVersion": "1.0.0", "name": "n", `+conf+`}`))
		require.NoError(t, err)
		require.ErrorContains(t, r.Decode(&v), want)
	}
}

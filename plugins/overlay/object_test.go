package overlay

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/ipam"
)

func TestAnObjectIsWrittenAsPackageJSONWould(t *testing.T) {
	t.Parallel()
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	for _, v := range []any{
		true, false, 0, -7, 1450, "plain", []string{"x"}, []netip.Prefix{p("10.0.0.0/8")}, nil,
		[]ipam.Pool{{{Subnet: p("10.244.1.0/24"), Start: a("10.244.1.2"), End: a("10.244.1.9"), Gateway: a("10.244.1.1")}, {Subnet: p("10.9.0.0/16")}},
			{{Subnet: p("fd00::/64"), Gateway: a("fd00::1")}}},
		[]ipam.Pool{}, []cni.Route{{Dst: p("10.244.0.0/16")}, {Dst: p("fd00::/8")}}, []cni.Route{},
	} {
		o := object{}
		require.NoError(t, o.put("key", v))
		want, err := json.Marshal(map[string]any{"key": v})
		require.NoError(t, err)
		require.JSONEq(t, string(want), string(o.encode()))
		require.NoError(t, o.fill("key", "other"))
		require.JSONEq(t, string(want), string(o.encode()), "what is there stays")
	}
	for _, key := range []string{`a"b`, `a\b`, "a\nb", "ä", "cni.dev/x", "<&>", "\x7f", ""} {
		var back map[string]int
		require.NoError(t, json.Unmarshal(object{key: json.RawMessage("1"), "z": json.RawMessage("2")}.encode(), &back))
		require.Equal(t, map[string]int{key: 1, "z": 2}, back)
	}
	require.Equal(t, "{}", string(object{}.encode()))
	require.Error(t, object{}.put("key", func() {}))
}

package overlay

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/base/lazyjson"
	"github.com/cniblocks/cniblocks/ipam"
	"github.com/cniblocks/cniblocks/masq"
)

func TestWhatADelegateIsHandedDownIsWrittenAsPackageJSONWould(t *testing.T) {
	t.Parallel()
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	for _, v := range []any{
		true, false, 0, -7, 1450, "plain", []string{"x"}, []netip.Prefix{p("10.0.0.0/8")}, nil,
		[]ipam.Pool{{{Subnet: p("10.244.1.0/24"), Start: a("10.244.1.2"), End: a("10.244.1.9"), Gateway: a("10.244.1.1")}, {Subnet: p("10.9.0.0/16")}},
			{{Subnet: p("fd00::/64"), Gateway: a("fd00::1")}}},
		[]ipam.Pool{}, []cni.Route{{Dst: p("10.244.0.0/16")}, {Dst: p("fd00::/8")}}, []cni.Route{}, masq.Families{V4: true}, masq.Families{},
	} {
		want, err := json.Marshal(v)
		require.NoError(t, err)
		have, err := lazyjson.Marshal(v)
		require.NoError(t, err)
		require.Equal(t, string(want), string(have))
	}
}

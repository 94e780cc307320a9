package bridge

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
)

func request(t *testing.T, verb cni.Verb, conf string) *cni.Request {
	t.Helper()
	r, err := (&cni.Request{Verb: verb, ContainerID: "c1", IfName: "eth0"}).With(verb, []byte(conf))
	require.NoError(t, err)
	return r
}

func TestATrunkOfVeryManyRangesIsNoMoreThanItsVLANs(t *testing.T) {
	t.Parallel()
	ranges := strings.Repeat(`{"minID":2,"maxID":4094},{"id":1},`, 10_000)
	c, err := read(request(t, cni.ADD, `{"cniVersion":"1.1.0","name":"net","type":"bridge","vlanTrunk":[`+strings.TrimSuffix(ranges, ",")+`]}`))
	require.NoError(t, err)
	require.Len(t, c.port.Trunk, 4094)
	require.Less(t, cap(c.port.Trunk), 10_000)
	require.IsIncreasing(t, c.port.Trunk)
}

//go:build linux

package inventory

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

func TestAnAnswerThatWasLostIsNotTakenForThatOfTheNextQuestion(t *testing.T) {
	t.Parallel()
	node, one, other := nstest.New(t), nstest.New(t), nstest.New(t)
	nstest.Link(t, nstest.End{NS: node, Name: "one"}, nstest.End{NS: one, Name: "eth0"})
	nstest.Link(t, nstest.End{NS: node, Name: "other"}, nstest.End{NS: other, Name: "eth0"})
	c, err := openIDs(node)
	require.NoError(t, err)
	defer c.close()
	first, err := c.of(one)
	require.NoError(t, err)
	second, err := c.of(other)
	require.NoError(t, err)
	require.NotEqual(t, first, second)

	lost := binary.NativeEndian.AppendUint32(nil, unix.NLMSG_HDRLEN+4+8)
	lost = binary.NativeEndian.AppendUint16(lost, unix.RTM_GETNSID)
	lost = binary.NativeEndian.AppendUint16(lost, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	lost = append(lost, make([]byte, 8+4)...)
	lost = attribute(lost, netnsaFD, uint32(one.Fd()))
	require.NoError(t, unix.Sendto(c.fd, lost, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
	id, err := c.of(other)
	require.NoError(t, err)
	require.Equal(t, second, id)
}

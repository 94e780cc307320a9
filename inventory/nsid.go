//go:build linux

package inventory

import (
	"encoding/binary"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/netns"
)

// Namespace ids (rtnetlink(7), ip-netns(8) "list-id") are how a namespace calls the others that its links lead to. The two
// questions about them are asked here over a socket of their own.

const (
	netnsaNSID = 1 // NETNSA_NSID of linux/net_namespace.h
	netnsaFD   = 3 // NETNSA_FD
	skipStats  = 1 << 3
)

// ids asks a namespace for its namespace ids.
type ids struct {
	fd  int
	seq uint32 // of the last request; what is left of an earlier one whose answer was lost has another
}

func openIDs(ns *netns.NS) (*ids, error) {
	fd, err := ns.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	return &ids{fd: fd}, err
}

func (c *ids) close() { unix.Close(c.fd) }

// links are the ids of the namespaces in which the links' other ends are, by index; links that lead nowhere else are not
// among them.
func (c *ids) links() (map[int]int32, error) {
	body := make([]byte, unix.SizeofIfInfomsg)
	out := map[int]int32{}
	err := c.ask(unix.RTM_GETLINK, unix.NLM_F_DUMP, attribute(body, unix.IFLA_EXT_MASK, skipStats), func(m syscall.NetlinkMessage) error {
		attrs, err := syscall.ParseNetlinkRouteAttr(&m)
		if err != nil {
			return err
		}
		for _, a := range attrs {
			if a.Attr.Type == unix.IFLA_LINK_NETNSID && len(a.Value) >= 4 && len(m.Data) >= 8 {
				out[int(binary.NativeEndian.Uint32(m.Data[4:]))] = int32(binary.NativeEndian.Uint32(a.Value))
			}
		}
		return nil
	})
	return out, err
}

// of is the id of another namespace; -1 if no link leads to it.
func (c *ids) of(other *netns.NS) (id int32, err error) {
	id = -1
	body := make([]byte, 4) // struct rtgenmsg
	err = c.ask(unix.RTM_GETNSID, 0, attribute(body, netnsaFD, uint32(other.Fd())), func(m syscall.NetlinkMessage) error {
		for b := m.Data[min(4, len(m.Data)):]; len(b) >= 8; {
			size := int(binary.NativeEndian.Uint16(b))
			if binary.NativeEndian.Uint16(b[2:]) == netnsaNSID {
				id = int32(binary.NativeEndian.Uint32(b[4:]))
			}
			b = b[min(max(4, (size+3)&^3), len(b)):]
		}
		return nil
	})
	return id, err
}

func attribute(b []byte, typ uint16, v uint32) []byte {
	b = binary.NativeEndian.AppendUint16(b, 8)
	b = binary.NativeEndian.AppendUint16(b, typ)
	return binary.NativeEndian.AppendUint32(b, v)
}

// ask sends a request and hands every answer to got, until the end of the dump or the acknowledgement.
func (c *ids) ask(typ uint16, flags uint16, body []byte, got func(syscall.NetlinkMessage) error) error {
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags)
	c.seq++
	b = binary.NativeEndian.AppendUint32(b, c.seq)
	b = append(b, make([]byte, 4)...) // port ID
	if err := unix.Sendto(c.fd, append(b, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("ask for namespace ids: %w", err)
	}
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(c.fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("ask for namespace ids: %w", err)
		}
		msgs, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return fmt.Errorf("ask for namespace ids: %w", err)
		}
		for _, m := range msgs {
			if m.Header.Seq != c.seq {
				continue
			}
			switch m.Header.Type {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				if len(m.Data) >= 4 {
					if errno := int32(binary.NativeEndian.Uint32(m.Data)); errno < 0 {
						return fmt.Errorf("ask for namespace ids: %w", unix.Errno(-errno))
					}
				}
				return nil
			}
			if err := got(m); err != nil {
				return err
			}
		}
	}
}

//go:build linux

package nstest

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/netns"
)

// packetRules is all that the kernel holds of nftables in a namespace, as it says it, less the numbers that it gives to what
// is made: where two are equal, so is what any program lists.
func packetRules(ns *netns.NS) (raw string, err error) {
	var s *nl.NetlinkSocket
	if err := ns.Do(func() (err error) { s, err = nl.Subscribe(unix.NETLINK_NETFILTER); return err }); err != nil {
		return "", err
	}
	defer s.Close()
	d := nftDumper{sockets: map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: {Socket: s}}}
	if tables := d.all("table", unix.NFT_MSG_GETTABLE, nftaTableHandle); len(tables) == 0 {
		return "", d.err
	}
	d.all("chain", unix.NFT_MSG_GETCHAIN, unix.NFTA_CHAIN_HANDLE)
	d.all("rule", unix.NFT_MSG_GETRULE, unix.NFTA_RULE_HANDLE, unix.NFTA_RULE_POSITION)
	d.all("object", unix.NFT_MSG_GETOBJ, nftaObjHandle)
	d.all("flowtable", unix.NFT_MSG_GETFLOWTABLE, nftaFlowtableHandle)
	for _, set := range d.all("set", unix.NFT_MSG_GETSET, nftaSetHandle) {
		d.dump("element", unix.NFT_MSG_GETSETELEM, set[0], slices.Concat(
			attribute(unix.NFTA_SET_ELEM_LIST_TABLE, value(set, unix.NFTA_SET_TABLE)),
			attribute(unix.NFTA_SET_ELEM_LIST_SET, value(set, unix.NFTA_SET_NAME))))
	}
	return d.out.String(), d.err
}

// From linux/netfilter/nf_tables.h: NFTA_TABLE_HANDLE and its like.
const (
	nftaTableHandle     = 4
	nftaSetHandle       = 16
	nftaObjHandle       = 6
	nftaFlowtableHandle = 5
)

type nftDumper struct {
	sockets map[int]*nl.SocketHandle
	out     strings.Builder
	err     error
}

// all dumps the objects of a kind in all families.
func (d *nftDumper) all(kind string, get int, numbers ...uint16) [][]byte {
	return d.dump(kind, get, unix.AF_UNSPEC, nil, numbers...)
}

// dump asks for objects of a kind and writes them down, less some attributes.
func (d *nftDumper) dump(kind string, get int, family byte, about []byte, numbers ...uint16) [][]byte {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|get, unix.NLM_F_DUMP)
	req.Sockets, req.RetryInterrupted = d.sockets, true
	req.AddRawData(append([]byte{family, unix.NFNETLINK_V0, 0, 0}, about...))
	msgs, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		d.err = errors.Join(d.err, fmt.Errorf("dump of nftables: %s: %w", kind, err))
	}
	lines := make([]string, len(msgs))
	for i, m := range msgs {
		lines[i] = fmt.Sprintf("nftables %s %d", kind, m[0])
		for typ, b := range attributes(m) {
			if !slices.Contains(numbers, typ) {
				lines[i] += fmt.Sprintf(" %d=%q", typ, b)
			}
		}
	}
	if kind == "element" {
		slices.Sort(lines)
	}
	for _, l := range lines {
		fmt.Fprintln(&d.out, l)
	}
	return msgs
}

// attributes yields those of a message of nfnetlink.
func attributes(m []byte) func(yield func(uint16, []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for b := m[4:]; len(b) >= unix.SizeofNlAttr; {
			size, typ := int(nl.NativeEndian().Uint16(b)), nl.NativeEndian().Uint16(b[2:])&nl.NLA_TYPE_MASK
			if size < unix.SizeofNlAttr || size > len(b) || !yield(typ, b[unix.SizeofNlAttr:size]) {
				return
			}
			b = b[min((size+3)&^3, len(b)):]
		}
	}
}

func value(m []byte, of uint16) []byte {
	for typ, b := range attributes(m) {
		if typ == of {
			return b
		}
	}
	return nil
}

func attribute(typ int, b []byte) []byte { return nl.NewRtAttr(typ, b).Serialize() }

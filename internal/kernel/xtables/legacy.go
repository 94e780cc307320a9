//go:build linux

package xtables

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/base/sentinel"
	"github.com/cniblocks/cniblocks/netns"
)

// Offsets and numbers of linux/netfilter/x_tables.h and netfilter_ipv4/ip_tables.h; those of IPv6 differ where said.
const (
	soGetInfo    = 64 // IPT_SO_GET_INFO, and for IPv6
	soGetEntries = 65
	nameLen      = 32
	infoLen      = 84 // struct ipt_getinfo: name, valid hooks, 5 entries, 5 underflows, number, size
	infoHooks    = nameLen
	infoUnder    = nameLen + 4 + 5*4
	infoSize     = infoLen - 4
	targetHeader = 32 // struct xt_entry_target: size, name, revision
	hookForward  = 2
)

// Legacy is a table of the kernel's older packet filter, which iptables-legacy keeps.
type Legacy struct {
	family Family
	info   [infoLen]byte
	blob   []byte
}

// ReadLegacy reads a legacy table without any program. If the namespace has none of that name it returns
// [io/fs.ErrNotExist], and makes none. Needs CAP_NET_ADMIN.
func ReadLegacy(ns *netns.NS, f Family, table string) (*Legacy, error) {
	tables, err := legacyTables(ns, f)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(tables, table) {
		return nil, sentinel.Errorf(fs.ErrNotExist, "there is no legacy %s table %s", f.prefix(), table)
	}
	fd, err := ns.Socket(f.domain(), unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		return nil, fmt.Errorf("legacy %s table %s: %w", f.prefix(), table, err)
	}
	defer unix.Close(fd)
	for {
		l, err := f.read(fd, table)
		if err == unix.EAGAIN { // it changed meanwhile
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("legacy %s table %s: %w", f.prefix(), table, err)
		}
		return l, nil
	}
}

// legacyTables lists the tables that exist in the namespace. The file is there in every namespace or, as long as no
// module is loaded, in none.
func legacyTables(ns *netns.NS, f Family) (tables []string, err error) {
	file := "/proc/thread-self/net/ip_tables_names"
	if f == 6 {
		file = "/proc/thread-self/net/ip6_tables_names"
	}
	if ns.Here() {
		tables, err = fields(file)
	} else if unix.Access(file, unix.F_OK) != unix.ENOENT {
		err = ns.Do(func() error {
			tables, err = fields(file)
			return err
		})
	}
	switch err {
	case unix.ENOENT, unix.EACCES, unix.EPERM: // a plain user's namespace can have none
		return nil, nil
	case nil:
		return tables, nil
	}
	return nil, fmt.Errorf("legacy %s tables: %w", f.prefix(), err)
}

// fields reads a small file of the kernel; plain system calls, since it is not worth a poller.
func fields(path string) ([]string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var b [4096]byte
	n := 0
	for n < len(b) {
		got, err := unix.Read(fd, b[n:])
		if err != nil {
			return nil, err
		}
		if got == 0 {
			break
		}
		n += got
	}
	return strings.Fields(string(b[:n])), nil
}

func (f Family) domain() int {
	if f == 6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func (f Family) level() int {
	if f == 6 {
		return unix.SOL_IPV6
	}
	return unix.SOL_IP
}

// targetOffset is the offset of target_offset in struct ipt_entry and struct ip6t_entry.
func (f Family) targetOffset() int {
	if f == 6 {
		return 140
	}
	return 88
}

func (f Family) read(fd int, table string) (*Legacy, error) {
	l := &Legacy{family: f}
	copy(l.info[:nameLen-1], table)
	if err := getsockopt(fd, f.level(), soGetInfo, l.info[:]); err != nil {
		return nil, err
	}
	size := binary.NativeEndian.Uint32(l.info[infoSize:])
	head := 40 // struct ipt_get_entries: name, size, then entries on eight bytes
	if runtime.GOARCH == "386" {
		head = 36
	}
	buf := make([]byte, head+int(size))
	copy(buf[:nameLen-1], table)
	binary.NativeEndian.PutUint32(buf[nameLen:], size)
	if err := getsockopt(fd, f.level(), soGetEntries, buf); err != nil {
		return nil, err
	}
	l.blob = buf[head:]
	return l, nil
}

func getsockopt(fd, level, option int, b []byte) error {
	size := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// Mentions reports whether a chain has that name or a rule that comment.
func (l *Legacy) Mentions(name string) bool { return bytes.Contains(l.blob, append([]byte(name), 0)) }

// ForwardDrops reports whether the policy of chain FORWARD is to drop.
func (l *Legacy) ForwardDrops() bool {
	if binary.NativeEndian.Uint32(l.info[infoHooks:])&(1<<hookForward) == 0 {
		return false
	}
	entry := int(binary.NativeEndian.Uint32(l.info[infoUnder+4*hookForward:]))
	at := entry + l.family.targetOffset()
	if at+2 > len(l.blob) {
		return false
	}
	verdict := entry + int(binary.NativeEndian.Uint16(l.blob[at:])) + targetHeader
	if verdict+4 > len(l.blob) {
		return false
	}
	return int32(binary.NativeEndian.Uint32(l.blob[verdict:])) == -1 // -NF_DROP - 1
}

// Fingerprint tells states of the legacy tables filter and nat of both families apart, whatever their rules have counted.
// It is cheap where there are none: the kernel announces no change of theirs.
func Fingerprint(ns *netns.NS) (uint64, error) {
	sum := uint64(offset64)
	for _, f := range []Family{4, 6} {
		tables, err := legacyTables(ns, f)
		if err != nil {
			return 0, err
		}
		for _, name := range []string{"filter", "nat"} {
			if !slices.Contains(tables, name) {
				continue
			}
			l, err := ReadLegacy(ns, f, name)
			if err != nil {
				return 0, err
			}
			sum = l.hash(hash(hash(sum, []byte(name)), []byte(f.prefix())))
		}
	}
	return sum, nil
}

// FNV-1a.
const (
	offset64 = 14695981039346656037
	prime64  = 1099511628211
)

func hash(sum uint64, b []byte) uint64 {
	for _, c := range b {
		sum = (sum ^ uint64(c)) * prime64
	}
	return sum
}

// hash leaves out the counters of each entry, two numbers of 64 bits on eight bytes behind target_offset, next_offset and
// comefrom.
func (l *Legacy) hash(sum uint64) uint64 {
	for b := l.blob; ; {
		counters := (l.family.targetOffset() + 8 + 7) &^ 7
		if len(b) < counters+16 {
			return hash(sum, b)
		}
		next := int(binary.NativeEndian.Uint16(b[l.family.targetOffset()+2:]))
		if next < counters+16 || next > len(b) {
			return hash(sum, b)
		}
		sum = hash(hash(sum, b[:counters]), b[counters+16:next])
		b = b[next:]
	}
}

package ipam

import (
	"fmt"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Owner is who holds a lease: an interface of a container. An empty IfName stands for leases that old versions of the
// reference made, which name only the container; it belongs to all of its interfaces.
type Owner struct{ ContainerID, IfName string }

// String names the owner in messages.
func (o Owner) String() string {
	if o.IfName == "" {
		return fmt.Sprintf("container %q", o.ContainerID)
	}
	return fmt.Sprintf("container %q, interface %q", o.ContainerID, o.IfName)
}

// Lease is an address that its owner may use.
type Lease struct {
	Addr    netip.Prefix // the address, with the prefix length of its subnet
	Gateway netip.Addr   // zero if the range has none
	Pool    int          // index of the pool that it is from
}

// Held is a lease as it lies in a [Dir], which knows nothing of pools.
type Held struct {
	Addr    netip.Addr
	Owner   Owner
	Earlier bool // made in an earlier boot: reclaimable
}

const (
	maxContainerID = 255
	maxIfName      = 15  // IFNAMSIZ less the final NUL
	maxContent     = 300 // bytes of a lease file that anybody could have meant
)

// check says what is wrong with an owner that asks for a lease. It takes more than the CNI specification does, and
// nothing that would read back as another owner.
func (o Owner) check() error {
	if o.IfName == "" || len(o.IfName) > maxIfName || strings.ContainsAny(o.IfName, "/: \t") || o.IfName == "." || o.IfName == ".." {
		return fmt.Errorf("interface name %q: give 1 to %d characters without '/', ':' and white space", o.IfName, maxIfName)
	}
	if got, ok := parseOwner([]byte(o.content())); !ok || got != o || strings.ContainsFunc(o.ContainerID, unicode.IsSpace) ||
		strings.Contains(o.ContainerID, "/") || len(o.ContainerID) > maxContainerID {
		return fmt.Errorf("container ID %q: give 1 to %d characters without '/' and white space", o.ContainerID, maxContainerID)
	}
	return nil
}

// container is the owner of the one-line leases of the same container.
func (o Owner) container() Owner { return Owner{ContainerID: o.ContainerID} }

// content is what the reference writes in a lease file.
func (o Owner) content() string {
	if o.IfName == "" {
		return o.ContainerID
	}
	return o.ContainerID + "\r\n" + o.IfName
}

// parseOwner reads a lease file. It is false for what a crash leaves: nothing, zeros, garbage.
func parseOwner(b []byte) (Owner, bool) {
	if len(b) > maxContent || !utf8.Valid(b) {
		return Owner{}, false
	}
	id, ifName, two := strings.Cut(strings.TrimSpace(string(b)), "\n")
	if two {
		id = strings.TrimSpace(id)
	}
	if id == "" || strings.ContainsFunc(id, unicode.IsControl) || strings.ContainsFunc(ifName, unicode.IsControl) {
		return Owner{}, false
	}
	return Owner{id, strings.TrimSpace(ifName)}, true
}

// parseName reads the name of a lease file. Only names that an allocator writes are leases.
func parseName(name string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(name)
	return a, err == nil && a.Zone() == "" && !a.Is4In6() && a.String() == name
}

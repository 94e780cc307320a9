package link

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"strings"

	"github.com/cniblocks/cniblocks/inet"
)

const (
	// Proto is the protocol number of our routes (ip-route(8), "protocol") and addresses (IFA_PROTO, Linux 5.18).
	Proto = 117

	// Group is the link group of what belongs to a network and not to one attachment: bridges, gateway devices.
	Group = 117

	// maxAlias is the kernel's bound, in bytes (IFALIASZ, with the final zero).
	maxAlias = 255
)

// HostName is the name of the host end of an attachment: "veth" and 55 bits of a hash of network, container ID and
// interface name, which CNI repeats in every call.
func HostName(network, containerID, ifName string) string {
	sum := sha256.Sum256([]byte(network + "/" + containerID + "/" + ifName))
	return "veth" + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:7])[:11])
}

// AliasPrefix is what the aliases of all attachments of a network begin with.
func AliasPrefix(network string) string { return "cniblocks/" + network + "/" }

// Alias is the mark of an attachment: cniblocks/<network>/<containerID>/<ifname>. The container ID is replaced by a hash
// where the whole would pass the kernel's 255 bytes.
func Alias(network, containerID, ifName string) string {
	a := AliasPrefix(network) + containerID + "/" + ifName
	if len(a) <= maxAlias {
		return a
	}
	sum := sha256.Sum256([]byte(containerID))
	id := "sha256:" + hex.EncodeToString(sum[:8])
	return AliasPrefix(network) + id + "/" + ifName
}

// MACFor is a locally administered unicast address that derives from a network and what is unique in it, such as an IP
// address (RFC 7042, section 2.1). A pod that gets an address which another one had a moment ago then has its MAC too, so
// that no neighbour cache is wrong.
func MACFor(network, unique string) inet.MAC {
	sum := sha256.Sum256([]byte(network + "/" + unique))
	m := inet.MAC(sum[:6])
	m[0] = m[0]&^1 | 2
	return m
}

package link

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"strings"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/mark"
)

const (
	// Proto is the protocol number of our routes (ip-route(8), "protocol") and addresses (IFA_PROTO, Linux 5.18).
	Proto = 117

	// Group is the link group of what belongs to a network and not to one attachment: bridges, gateway devices.
	Group = 117

	// maxLabel and maxAlias bound what an alias says as it is, in bytes: the kernel takes 255 (IFALIASZ, with the final
	// zero), and the records of package spoof repeat the first 209 in full.
	maxLabel, maxAlias = 190, 255
)

// HostName is the name of the host end of an attachment: "veth" and 55 bits of a hash of network, container ID and
// interface name, which CNI repeats in every call. None of them may have a slash, else two attachments can get one name:
// CNI allows none.
func HostName(network, containerID, ifName string) string {
	sum := sha256.Sum256([]byte(network + "/" + containerID + "/" + ifName))
	return "veth" + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:7])[:11])
}

// Root is what all aliases of ours begin with.
const Root = mark.Word + "/"

// Label is a network's name as aliases have it: itself, or sha256:HASH in place of one of more than 190 bytes.
func Label(network string) string {
	if len(network) <= maxLabel {
		return network
	}
	return hashed(network)
}

func hashed(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "sha256:" + hex.EncodeToString(sum[:8])
}

// NetworkAlias is the mark of what belongs to a network and not to one attachment: cniblocks/<network>, see [Label].
func NetworkAlias(network string) string { return Root + Label(network) }

// AliasPrefix is what the aliases of all attachments of a network begin with.
func AliasPrefix(network string) string { return NetworkAlias(network) + "/" }

// Alias is the mark of an attachment: cniblocks/<network>/<containerID>/<ifname>, see [Label]. Where the whole would pass the
// kernel's 255 bytes it has sha256:HASH in place of the container ID, see [ContainerLabel].
func Alias(network, containerID, ifName string) string {
	a := AliasPrefix(network) + containerID + "/" + ifName
	if len(a) <= maxAlias {
		return a
	}
	return AliasPrefix(network) + ContainerLabel(containerID) + "/" + ifName
}

// ContainerLabel is what stands for a container ID in an alias that has no room for it.
func ContainerLabel(containerID string) string { return hashed(containerID) }

// MACFor is a locally administered unicast address that derives from a network and what is unique in it, such as an IP
// address (RFC 7042, section 2.1). A pod that gets an address which another one had a moment ago then has its MAC too, so
// that no neighbour cache is wrong.
func MACFor(network, unique string) inet.MAC {
	sum := sha256.Sum256([]byte(network + "/" + unique))
	m := inet.MAC(sum[:6])
	m[0] = m[0]&^1 | 2
	return m
}

//go:build linux

package rtnl

// What golang.org/x/sys/unix lacks of linux/if_link.h, if_bridge.h, if_addr.h, netlink.h, rtnetlink.h, netconf.h and lwtunnel.h.
const (
	nlaTypeMask = 0x3fff

	filterSkipStats = 1 << 3 // RTEXT_FILTER_SKIP_STATS

	ifaProto         = 11 // IFA_PROTO
	ifaTargetNetNSID = 10 // IFA_TARGET_NETNSID
	rtaNextHopID     = 30 // RTA_NH_ID

	bridgeFlags         = 0 // IFLA_BRIDGE_FLAGS
	bridgeVLANInfo      = 2 // IFLA_BRIDGE_VLAN_INFO
	bridgeFlagsMaster   = 1
	bridgeFlagsSelf     = 2
	bridgeVLANPVID      = 1 << 1
	bridgeVLANUntagged  = 1 << 2
	bridgeVLANBegin     = 1 << 3 // BRIDGE_VLAN_INFO_RANGE_BEGIN
	bridgeVLANEnd       = 1 << 4
	bridgeVLANFiltering = 7  // IFLA_BR_VLAN_FILTERING
	bridgeDefaultPVID   = 39 // IFLA_BR_VLAN_DEFAULT_PVID

	rtmGetVLAN     = 114 // RTM_GETVLAN
	vlanEntry      = 1   // BRIDGE_VLANDB_ENTRY
	vlanEntryInfo  = 1   // BRIDGE_VLANDB_ENTRY_INFO
	vlanEntryRange = 2   // BRIDGE_VLANDB_ENTRY_RANGE

	netconfLen   = 4 // struct netconfmsg, padded
	netconfIndex = 1 // NETCONFA_IFINDEX

	lwtunnelIP  = 2 // LWTUNNEL_ENCAP_IP
	lwtunnelIP6 = 4 // LWTUNNEL_ENCAP_IP6
)

// Properties of a bridge port, IFLA_BRPORT_*.
const (
	Hairpin       = 4
	Learning      = 8
	Flood         = 9
	NeighSuppress = 32
	Isolated      = 33
)

package cni

import (
	"net/netip"
	"slices"
)

// Versions are those of the specification that are spoken, oldest first.
var Versions = []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}

func atLeast(version, than string) bool {
	return slices.Index(Versions, version) >= slices.Index(Versions, than)
}

// Result is what an ADD made (CNI specification 1.1.0, section 5).
type Result struct {
	Interfaces []Interface
	IPs        []IP
	Routes     []Route
	DNS        DNS
}

// Interface is one that the attachment has or uses.
type Interface struct {
	Name       string `json:"name"`
	MAC        string `json:"mac,omitempty"`
	MTU        int    `json:"mtu,omitempty"` // bytes; 1.1.0
	Sandbox    string `json:"sandbox,omitempty"`
	SocketPath string `json:"socketPath,omitempty"` // 1.1.0
	PciID      string `json:"pciID,omitempty"`      // 1.1.0
}

// NoInterface is the index of an address that is on no interface yet: what an IPAM plugin answers.
const NoInterface = -1

// IP is an address of the attachment.
type IP struct {
	Address   netip.Prefix // the host's address with the length of its subnet
	Gateway   netip.Addr   // zero if there is none
	Interface int          // index in Interfaces, or NoInterface
}

// Route is one that the attachment has. Zero fields are the kernel's choice.
type Route struct {
	Dst      netip.Prefix
	GW       netip.Addr
	MTU      int // bytes; this and the following: 1.1.0
	AdvMSS   int
	Priority int
	Table    int
	Scope    int
}

// DNS is what the attachment should resolve names with.
type DNS struct {
	Nameservers []string `json:"nameservers,omitempty"`
	Domain      string   `json:"domain,omitempty"`
	Search      []string `json:"search,omitempty"`
	Options     []string `json:"options,omitempty"`
}

// As is a copy with only what a version of the specification can say.
func (r *Result) As(version string) *Result {
	c := Result{slices.Clone(r.Interfaces), slices.Clone(r.IPs), slices.Clone(r.Routes), r.DNS}
	if atLeast(version, "1.1.0") {
		return &c
	}
	for i, l := range c.Interfaces {
		c.Interfaces[i] = Interface{Name: l.Name, MAC: l.MAC, Sandbox: l.Sandbox}
	}
	for i, r := range c.Routes {
		c.Routes[i] = Route{Dst: r.Dst, GW: r.GW}
	}
	if !atLeast(version, "0.3.0") {
		c.Interfaces = nil
		for i := range c.IPs {
			c.IPs[i].Interface = NoInterface
		}
	}
	return &c
}

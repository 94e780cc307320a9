package cni

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"slices"

	types "github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"

	"github.com/cniblocks/cniblocks/internal/base/sparse"
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
type DNS = types.DNS

// wire forms of 1.0.0 and 1.1.0
type (
	wireIP struct {
		Interface *int   `json:"interface,omitempty"`
		Address   string `json:"address"`
		Gateway   string `json:"gateway,omitempty"`
	}
	wireRoute struct {
		Dst      string `json:"dst"`
		GW       string `json:"gw,omitempty"`
		MTU      int    `json:"mtu,omitempty"`
		AdvMSS   int    `json:"advmss,omitempty"`
		Priority int    `json:"priority,omitempty"`
		Table    *int   `json:"table,omitempty"`
		Scope    *int   `json:"scope,omitempty"`
	}
)

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

// Encode is the result in a version of the specification.
func (r *Result) Encode(version string) ([]byte, error) {
	if !slices.Contains(Versions, version) {
		return nil, Errorf(ErrVersion, "cniVersion %q: not known; want one of %v", version, Versions)
	}
	b, err := r.As(version).wire(version)
	if err != nil || atLeast(version, "1.0.0") {
		return b, err
	}
	// Older forms are the library's business.
	newest, err := r.As(version).wire(current.ImplementedSpecVersion)
	if err != nil {
		return nil, err
	}
	parsed, err := create.Create(current.ImplementedSpecVersion, newest)
	if err == nil {
		parsed, err = parsed.GetAsVersion(version)
	}
	if err != nil {
		return nil, &Error{Code: ErrVersion, Msg: err.Error(), Details: fmt.Sprintf("the result has no form in CNI %s, which is the netconf's \"cniVersion\"", version), err: err}
	}
	return json.Marshal(parsed)
}

func empty(d DNS) bool {
	return d.Domain == "" && len(d.Nameservers) == 0 && len(d.Search) == 0 && len(d.Options) == 0
}

// MarshalJSON is the form of a route in results and netconfs (specification, section 5, routes).
func (t Route) MarshalJSON() ([]byte, error) { return t.wire(), nil }

// UnmarshalJSON reads that form.
func (t *Route) UnmarshalJSON(b []byte) error {
	var w wireRoute
	if err := sparse.Unmarshal(b, &w); err != nil {
		return fmt.Errorf("route: %w", err)
	}
	dst, err := netip.ParsePrefix(w.Dst)
	if err != nil {
		return fmt.Errorf("key \"dst\" of a route: %q is no prefix such as 0.0.0.0/0", w.Dst)
	}
	*t = Route{Dst: dst.Masked(), MTU: w.MTU, AdvMSS: w.AdvMSS, Priority: w.Priority}
	if w.Table != nil {
		t.Table = *w.Table
	}
	if w.Scope != nil {
		t.Scope = *w.Scope
	}
	if w.GW != "" {
		if t.GW, err = netip.ParseAddr(w.GW); err != nil {
			return fmt.Errorf("key \"gw\" of the route to %s: %q is no IP address", dst, w.GW)
		}
		t.GW = t.GW.Unmap()
		if t.GW.Is4() && !dst.Addr().Is4() {
			return fmt.Errorf("key \"gw\" of the route to %s: %s is an IPv4 address; want an IPv6 one", dst, t.GW)
		}
	}
	for _, v := range []struct {
		key string
		n   int
	}{{"mtu", t.MTU}, {"advmss", t.AdvMSS}, {"priority", t.Priority}, {"table", t.Table}} {
		if v.n < 0 || int64(v.n) > math.MaxUint32 {
			return fmt.Errorf("key %q of the route to %s: %d is not between 0 and %d", v.key, dst, v.n, uint32(math.MaxUint32))
		}
	}
	if t.Scope < 0 || t.Scope > 255 {
		return fmt.Errorf("key \"scope\" of the route to %s: %d is not between 0 and 255", dst, t.Scope)
	}
	return nil
}

// ParseResult reads a result in any version of the specification, which the text itself names.
func ParseResult(b []byte) (*Result, error) {
	return parseOf(Versions[0], b)
}

func parseResult(version string, b []byte) (*Result, error) {
	if !slices.Contains(Versions, version) {
		return nil, Errorf(ErrVersion, "result has cniVersion %q; want one of %v", version, Versions)
	}
	if !atLeast(version, "1.0.0") {
		old, err := create.Create(version, b)
		if err != nil {
			return nil, Errorf(ErrDecode, "result of version %s: %w", version, err)
		}
		if old, err = old.GetAsVersion(current.ImplementedSpecVersion); err == nil {
			b, err = json.Marshal(old)
		}
		if err != nil {
			return nil, Errorf(ErrDecode, "result of version %s: %w", version, err)
		}
	}
	var w struct {
		Interfaces []Interface `json:"interfaces"`
		IPs        []wireIP    `json:"ips"`
		Routes     []Route     `json:"routes"`
		DNS        DNS         `json:"dns"`
	}
	if err := sparse.Unmarshal(b, &w); err != nil {
		return nil, Errorf(ErrDecode, "result: %w", err)
	}
	r := &Result{Interfaces: w.Interfaces, Routes: w.Routes, DNS: w.DNS}
	for _, ip := range w.IPs {
		v, err := ip.parse(len(w.Interfaces))
		if err != nil {
			return nil, err
		}
		r.IPs = append(r.IPs, v)
	}
	return r, nil
}

func (w wireIP) parse(interfaces int) (ip IP, err error) {
	if ip.Address, err = netip.ParsePrefix(w.Address); err != nil {
		return ip, Errorf(ErrDecode, "result: address %q is no prefix such as 10.1.2.3/24", w.Address)
	}
	if w.Gateway != "" {
		if ip.Gateway, err = netip.ParseAddr(w.Gateway); err != nil {
			return ip, Errorf(ErrDecode, "result: gateway %q of %s is no IP address", w.Gateway, w.Address)
		}
		ip.Gateway = ip.Gateway.Unmap()
	}
	ip.Interface = NoInterface
	if w.Interface != nil && (interfaces > 0 || *w.Interface < 0) { // some IPAM plugins state one where there is none
		ip.Interface = *w.Interface
		if ip.Interface < 0 || ip.Interface >= interfaces {
			return ip, Errorf(ErrDecode, "result: address %s names interface %d of %d", w.Address, ip.Interface, interfaces)
		}
	}
	return ip, nil
}

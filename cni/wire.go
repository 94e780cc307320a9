package cni

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/internal/base/lazyjson"
)

// The forms of a result since 0.3.0, and before.
type (
	wire struct {
		Version    string      `json:"cniVersion,omitempty"`
		Interfaces []Interface `json:"interfaces,omitempty"`
		IPs        []wireIP    `json:"ips,omitempty"`
		Routes     []Route     `json:"routes,omitempty"`
		DNS        *DNS        `json:"dns,omitempty"`
	}
	wireIP struct {
		Family    string `json:"version,omitempty"` // "4" or "6"; before 1.0.0
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
		Table    int    `json:"table,omitempty"`
		Scope    int    `json:"scope,omitempty"`
	}
	oldWire struct {
		Version string     `json:"cniVersion,omitempty"`
		IP4     *oldWireIP `json:"ip4,omitempty"`
		IP6     *oldWireIP `json:"ip6,omitempty"`
		DNS     DNS        `json:"dns"`
	}
	oldWireIP struct {
		Address string  `json:"ip"`
		Gateway string  `json:"gateway,omitempty"`
		Routes  []Route `json:"routes,omitempty"`
	}
)

// Encode is the result in a version of the specification.
func (r *Result) Encode(version string) ([]byte, error) {
	if !slices.Contains(Versions, version) {
		return nil, Errorf(ErrVersion, "cniVersion %q: not known; want one of %v", version, Versions)
	}
	r = r.As(version)
	if !atLeast(version, "0.3.0") {
		return r.encodeOld(version)
	}
	w := wire{Version: version, Interfaces: r.Interfaces, Routes: r.Routes}
	if !atLeast(version, "1.0.0") || r.DNS.Domain != "" || len(r.DNS.Nameservers)+len(r.DNS.Search)+len(r.DNS.Options) > 0 {
		w.DNS = &r.DNS
	}
	for i, ip := range r.IPs {
		one := wireIP{Address: ip.Address.String(), Gateway: text(ip.Gateway)}
		if ip.Interface >= 0 {
			one.Interface = &r.IPs[i].Interface
		}
		if !atLeast(version, "1.0.0") {
			one.Family = map[bool]string{true: "4", false: "6"}[ip.Address.Addr().Is4()]
		}
		w.IPs = append(w.IPs, one)
	}
	return lazyjson.Marshal(w)
}

// encodeOld has the first address of each family, and the routes of those.
func (r *Result) encodeOld(version string) ([]byte, error) {
	w := oldWire{Version: version, DNS: r.DNS}
	of := func(a netip.Addr) **oldWireIP {
		if a.Is4() {
			return &w.IP4
		}
		return &w.IP6
	}
	for _, ip := range r.IPs {
		if at := of(ip.Address.Addr()); *at == nil {
			*at = &oldWireIP{Address: ip.Address.String(), Gateway: text(ip.Gateway)}
		}
	}
	if w.IP4 == nil && w.IP6 == nil {
		return nil, &Error{Code: ErrVersion, Msg: "cannot convert: no valid IP addresses", // as the specification's library says it
			Details: fmt.Sprintf("the result has no form in CNI %s, which is the netconf's \"cniVersion\"", version)}
	}
	for _, t := range r.Routes {
		if at := of(t.Dst.Addr()); *at != nil {
			(*at).Routes = append((*at).Routes, t)
		}
	}
	return lazyjson.Marshal(w)
}

func text(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// MarshalJSON is the form of a route in results and netconfs (specification, section 5, routes).
func (t Route) MarshalJSON() ([]byte, error) {
	return lazyjson.Marshal(wireRoute{t.Dst.String(), text(t.GW), t.MTU, t.AdvMSS, t.Priority, t.Table, t.Scope})
}

// UnmarshalJSON reads that form.
func (t *Route) UnmarshalJSON(b []byte) error {
	var w wireRoute
	if err := lazyjson.Unmarshal(b, &w); err != nil {
		return fmt.Errorf("route: %w", err)
	}
	dst, err := parsePrefix(w.Dst)
	if err != nil {
		return fmt.Errorf("key \"dst\" of a route: %q is no prefix such as 0.0.0.0/0", w.Dst)
	}
	*t = Route{dst.Masked(), netip.Addr{}, w.MTU, w.AdvMSS, w.Priority, w.Table, w.Scope}
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

// parsePrefix takes a mapped prefix for the IPv4 one.
func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p, err
}

// ParseResult reads a result in any version of the specification, which the text itself names.
func ParseResult(b []byte) (*Result, error) { return parseOf(Versions[0], b) }

// parseOf reads a result that is in a version, that of the configuration, unless it says otherwise.
func parseOf(version string, b []byte) (*Result, error) {
	var v struct {
		Version string `json:"cniVersion"`
	}
	if err := lazyjson.Unmarshal(b, &v); err != nil {
		return nil, Errorf(ErrDecode, "result: %w", err)
	}
	version = cmp.Or(v.Version, version)
	if !slices.Contains(Versions, version) {
		return nil, Errorf(ErrVersion, "result has cniVersion %q; want one of %v", version, Versions)
	}
	r, err := parse(version, b)
	switch {
	case err != nil && atLeast(version, "1.0.0"):
		return nil, Errorf(ErrDecode, "result: %w", err)
	case err != nil:
		return nil, Errorf(ErrDecode, "result of version %s: %w", version, err)
	case atLeast(version, "1.0.0"):
		return r, nil
	}
	return r.As(version), nil
}

func parse(version string, b []byte) (*Result, error) {
	var w wire
	if atLeast(version, "0.3.0") {
		if err := lazyjson.Unmarshal(b, &w); err != nil {
			return nil, err
		}
	} else {
		var old oldWire
		if err := lazyjson.Unmarshal(b, &old); err != nil {
			return nil, err
		}
		w.DNS = &old.DNS
		for _, ip := range []*oldWireIP{old.IP4, old.IP6} {
			if ip != nil {
				w.IPs = append(w.IPs, wireIP{Address: ip.Address, Gateway: ip.Gateway})
				w.Routes = append(w.Routes, ip.Routes...)
			}
		}
	}
	r := &Result{Interfaces: w.Interfaces, Routes: w.Routes}
	if w.DNS != nil {
		r.DNS = *w.DNS
	}
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
	if ip.Address, err = parsePrefix(w.Address); err != nil {
		return ip, fmt.Errorf("address %q is no prefix such as 10.1.2.3/24", w.Address)
	}
	if w.Gateway != "" {
		if ip.Gateway, err = netip.ParseAddr(w.Gateway); err != nil {
			return ip, fmt.Errorf("gateway %q of %s is no IP address", w.Gateway, w.Address)
		}
		ip.Gateway = ip.Gateway.Unmap()
	}
	ip.Interface = NoInterface
	if w.Interface != nil && (interfaces > 0 || *w.Interface < 0) { // some IPAM plugins state one where there is none
		ip.Interface = *w.Interface
		if ip.Interface < 0 || ip.Interface >= interfaces {
			return ip, fmt.Errorf("address %s names interface %d of %d", w.Address, ip.Interface, interfaces)
		}
	}
	return ip, nil
}

package flannel

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cniblocks/cniblocks/inet"
)

// Lease is one node's ranges, at most one for each family, and what it publishes of itself. It is comparable.
type Lease struct {
	Subnet     netip.Prefix // of the IPv4 pods; the zero value if there is none
	IPv6Subnet netip.Prefix
	Attrs      Attrs
}

// Pods are the ranges of a lease, in the order of the families.
func (l Lease) Pods() []netip.Prefix {
	var all []netip.Prefix
	for _, r := range [...]netip.Prefix{l.Subnet, l.IPv6Subnet} {
		if r.IsValid() {
			all = append(all, r)
		}
	}
	return all
}

// Attrs is the value of a lease in etcd. It is comparable; as JSON it has flannel's bytes.
type Attrs struct {
	PublicIP      netip.Addr // endpoint on the IPv4 underlay; the zero value if there is none, "0.0.0.0" in JSON
	PublicIPv6    netip.Addr // on the IPv6 underlay; null in JSON if there is none
	BackendType   string     // "" is not published yet
	BackendData   Raw        // what the backend has to know of the endpoint on the IPv4 underlay
	BackendV6Data Raw
}

// Raw is a JSON value as it is written. "" is none.
type Raw string

// MarshalJSON gives the value, or null if there is none.
func (r Raw) MarshalJSON() ([]byte, error) {
	if r == "" {
		return []byte("null"), nil
	}
	return []byte(r), nil
}

// UnmarshalJSON takes any value. A null is none.
func (r *Raw) UnmarshalJSON(v []byte) error {
	if *r = Raw(v); null(v) {
		*r = ""
	}
	return nil
}

// ParseAttrs reads the value of a lease. The error holds a [*peer.Problem].
func ParseAttrs(value []byte) (Attrs, error) {
	var in struct {
		PublicIP, PublicIPv6, BackendType json.RawMessage
		BackendData, BackendV6Data        Raw
	}
	if err := json.Unmarshal(value, &in); err != nil {
		return Attrs{}, problem("value", quote(string(value)), "is not a JSON object", `write { "PublicIP": "192.0.2.1" }, or delete the key`)
	}
	var r reader
	a := Attrs{BackendType: r.text("BackendType", in.BackendType), BackendData: in.BackendData, BackendV6Data: in.BackendV6Data}
	if len(r.wrong) > 0 {
		return Attrs{}, problem("BackendType", show(in.BackendType), "is not a string", "write the name of a backend in quotes")
	}
	var errs [2]error
	a.PublicIP, errs[0] = publicIP("PublicIP", in.PublicIP, inet.IPv4)
	a.PublicIPv6, errs[1] = publicIP("PublicIPv6", in.PublicIPv6, inet.IPv6)
	if err := errors.Join(errs[:]...); err != nil {
		return Attrs{}, err
	}
	return a, nil
}

// UnmarshalJSON is [ParseAttrs].
func (a *Attrs) UnmarshalJSON(value []byte) (err error) {
	*a, err = ParseAttrs(value)
	return err
}

// MarshalJSON writes what flannel writes for the same lease.
func (a Attrs) MarshalJSON() ([]byte, error) {
	out := struct {
		PublicIP      string
		PublicIPv6    *netip.Addr
		BackendType   string `json:",omitempty"`
		BackendData   Raw    `json:",omitempty"`
		BackendV6Data Raw    `json:",omitempty"`
	}{PublicIP: printed(a.PublicIP), BackendType: a.BackendType, BackendData: a.BackendData, BackendV6Data: a.BackendV6Data}
	if a.PublicIPv6.IsValid() {
		out.PublicIPv6 = &a.PublicIPv6
	}
	return json.Marshal(out)
}

func publicIP(key string, v []byte, f inet.Family) (netip.Addr, error) {
	if null(v) {
		return netip.Addr{}, nil
	}
	s, err := unquote(v)
	if err != nil {
		return netip.Addr{}, problem(key, show(v), "is not a string", "write an address in quotes")
	}
	return parseAddr(key, s, f)
}

// parseAddr reads the address of a node. That of no node, which flannel writes for a family without one, is the zero Addr.
func parseAddr(key, s string, f inet.Family) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || inet.FamilyOf(a) != f {
		return netip.Addr{}, problem(key, quote(s), "is not an address of "+f.String(), "write the address at which the other nodes reach this one")
	}
	if a.IsUnspecified() {
		return netip.Addr{}, nil
	}
	return a, nil
}

// printed is how flannel writes an IPv4 address, set or not.
func printed(a netip.Addr) string {
	if !a.IsValid() {
		return "0.0.0.0"
	}
	return a.String()
}

// addrOf and dataOf are the attributes of one family of the underlay, with the name of the data for problems.
func (a Attrs) addrOf(f inet.Family) netip.Addr {
	if f == inet.IPv4 {
		return a.PublicIP
	}
	return a.PublicIPv6
}

func (a Attrs) dataOf(f inet.Family) (key string, data Raw) {
	if f == inet.IPv4 {
		return "BackendData", a.BackendData
	}
	return "BackendV6Data", a.BackendV6Data
}

// String is the lease in one line.
func (l Lease) String() string { return fmt.Sprintf("%s at %s", l.Key(), l.Attrs.where()) }

func (a Attrs) where() string {
	switch {
	case a.PublicIP.IsValid() && a.PublicIPv6.IsValid():
		return a.PublicIP.String() + " and " + a.PublicIPv6.String()
	case a.PublicIPv6.IsValid():
		return a.PublicIPv6.String()
	}
	return printed(a.PublicIP)
}

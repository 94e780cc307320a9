package flannel

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/netip"

	"github.com/cniblocks/cniblocks/inet"
)

// Config is a network as <prefix>/config in etcd and net-conf.json in Kubernetes state it. It is comparable. As JSON it is
// a configuration again, with the secret left out.
type Config struct {
	EnableIPv4     bool // true if not stated
	EnableIPv6     bool
	EnableNFTables bool // flanneld's own choice of firewall

	Network     netip.Prefix // of the IPv4 pods; without bits beyond its length
	IPv6Network netip.Prefix

	// How the nodes part the network where they take their ranges themselves, in etcd. [Config.Ranges] fills in the zero
	// fields; Kubernetes does not use them.
	SubnetLen     int        // of a node's range
	SubnetMin     netip.Addr // base of the first range that is given out
	SubnetMax     netip.Addr // base of the last one
	IPv6SubnetLen int
	IPv6SubnetMin netip.Addr
	IPv6SubnetMax netip.Addr

	Backend Backend
}

// config is the document before the values are looked at, so that every error can name its key.
type config struct {
	EnableIPv4, EnableIPv6, EnableNFTables json.RawMessage
	Network, IPv6Network                   json.RawMessage
	SubnetLen, IPv6SubnetLen               json.RawMessage
	SubnetMin, SubnetMax                   json.RawMessage
	IPv6SubnetMin, IPv6SubnetMax           json.RawMessage
	Backend                                json.RawMessage
}

// ParseConfig reads a configuration and checks what holds wherever it is kept: the network of each family that is enabled
// is stated and of that family. Bits of a network beyond its length are dropped, as flannel does. All that is wrong is
// told at once. Whether the backend can be had is for [Config.Encapsulation].
func ParseConfig(data []byte) (Config, error) {
	var in config
	if err := json.Unmarshal(data, &in); err != nil {
		return Config{}, fmt.Errorf(`the flannel configuration is not a JSON object: %w: write { "Network": "10.244.0.0/16", "Backend": { "Type": "vxlan" } }`, err)
	}
	var r reader
	c := Config{
		EnableIPv4:     r.flag("EnableIPv4", in.EnableIPv4, true),
		EnableIPv6:     r.flag("EnableIPv6", in.EnableIPv6, false),
		EnableNFTables: r.flag("EnableNFTables", in.EnableNFTables, false),
		Network:        r.network("Network", in.Network, inet.IPv4),
		IPv6Network:    r.network("IPv6Network", in.IPv6Network, inet.IPv6),
		SubnetLen:      int(r.number("SubnetLen", in.SubnetLen, 32, 0)),
		IPv6SubnetLen:  int(r.number("IPv6SubnetLen", in.IPv6SubnetLen, 128, 0)),
		SubnetMin:      r.addr("SubnetMin", in.SubnetMin, inet.IPv4),
		SubnetMax:      r.addr("SubnetMax", in.SubnetMax, inet.IPv4),
		IPv6SubnetMin:  r.addr("IPv6SubnetMin", in.IPv6SubnetMin, inet.IPv6),
		IPv6SubnetMax:  r.addr("IPv6SubnetMax", in.IPv6SubnetMax, inet.IPv6),
		Backend:        r.backend(in.Backend),
	}
	if len(r.wrong) == 0 {
		r.need(c)
	}
	if len(r.wrong) > 0 {
		return Config{}, fmt.Errorf("flannel configuration: %w", errors.Join(r.wrong...))
	}
	return c, nil
}

func (r *reader) need(c Config) {
	if c.EnableIPv4 && !c.Network.IsValid() {
		r.bad(`Network is missing: state the range of all pods, such as "10.244.0.0/16", or set "EnableIPv4": false`)
	}
	if c.EnableIPv6 && !c.IPv6Network.IsValid() {
		r.bad(`IPv6Network is missing with EnableIPv6: state the range of all IPv6 pods, such as "fd00:10:244::/48"`)
	}
	if !c.EnableIPv4 && !c.EnableIPv6 {
		r.bad("EnableIPv4 false: no family is left: enable one")
	}
}

// Prefixes are the networks of the families that are enabled.
func (c Config) Prefixes() []netip.Prefix {
	var all []netip.Prefix
	if c.EnableIPv4 {
		all = append(all, c.Network)
	}
	if c.EnableIPv6 {
		all = append(all, c.IPv6Network)
	}
	return all
}

// Part is how the network of one family is parted into the ranges of nodes.
type Part struct {
	Network  netip.Prefix
	Len      int        // of a range
	Min, Max netip.Addr // bases of the first and the last range
}

// Ranges is the configuration with flannel's choices in place of the zero fields: a /24 and a /64 for each node, or a
// quarter of a network that is too small for them; the first range of a network is left out, since its base is the
// network's. What flannel would refuse is refused here.
func (c Config) Ranges() (Config, error) {
	var errs [2]error
	if c.EnableIPv4 {
		p := Part{Network: c.Network, Len: c.SubnetLen, Min: c.SubnetMin, Max: c.SubnetMax}
		errs[0] = p.complete("", 24)
		c.SubnetLen, c.SubnetMin, c.SubnetMax = p.Len, p.Min, p.Max
	}
	if c.EnableIPv6 {
		p := Part{Network: c.IPv6Network, Len: c.IPv6SubnetLen, Min: c.IPv6SubnetMin, Max: c.IPv6SubnetMax}
		errs[1] = p.complete("IPv6", 64)
		c.IPv6SubnetLen, c.IPv6SubnetMin, c.IPv6SubnetMax = p.Len, p.Min, p.Max
	}
	if err := errors.Join(errs[:]...); err != nil {
		return Config{}, fmt.Errorf("flannel configuration: %w", err)
	}
	return c, nil
}

// Part is that of a family which is enabled, in a configuration that [Config.Ranges] returned; else it is the zero value.
func (c Config) Part(f inet.Family) Part {
	switch {
	case f == inet.IPv4 && c.EnableIPv4:
		return Part{c.Network, c.SubnetLen, c.SubnetMin, c.SubnetMax}
	case f == inet.IPv6 && c.EnableIPv6:
		return Part{c.IPv6Network, c.IPv6SubnetLen, c.IPv6SubnetMin, c.IPv6SubnetMax}
	}
	return Part{}
}

// spare is how much longer than the network a range has to be: four fit, of which the first is not used.
const spare = 2

func (p *Part) complete(family string, usual int) error {
	bits := p.Network.Addr().BitLen()
	if p.Len == 0 {
		if p.Network.Bits() > bits-2*spare {
			return fmt.Errorf("%sNetwork %s is too small: state one of at most /%d", family, p.Network, bits-2*spare)
		}
		p.Len = max(usual, p.Network.Bits()+spare)
	}
	switch {
	case p.Len > bits-spare:
		return fmt.Errorf("%sSubnetLen %d leaves no room for pods: state at most %d", family, p.Len, bits-spare)
	case p.Len < p.Network.Bits()+spare:
		return fmt.Errorf("%sSubnetLen %d does not fit four times into %sNetwork %s: state at least %d", family, p.Len, family, p.Network, p.Network.Bits()+spare)
	}
	if !p.Min.IsValid() {
		p.Min = p.at(1)
	}
	if !p.Max.IsValid() {
		p.Max = p.last()
	}
	for _, end := range []struct {
		key string
		a   netip.Addr
	}{{"SubnetMin", p.Min}, {"SubnetMax", p.Max}} {
		if !p.Network.Contains(end.a) {
			return fmt.Errorf("%s%s %s is outside of %sNetwork %s: state the base of a range within", family, end.key, end.a, family, p.Network)
		}
		if base, _ := end.a.Prefix(p.Len); base.Addr() != end.a {
			return fmt.Errorf("%s%s %s is not the base of a /%d: state %s", family, end.key, end.a, p.Len, base.Addr())
		}
	}
	if p.Max.Less(p.Min) {
		return fmt.Errorf("%sSubnetMax %s is below %sSubnetMin %s: swap them", family, p.Max, family, p.Min)
	}
	return nil
}

// at is the base of the range number n of the network.
func (p Part) at(n int64) netip.Addr {
	base := new(big.Int).SetBytes(p.Network.Addr().AsSlice())
	step := new(big.Int).Lsh(big.NewInt(n), uint(p.Network.Addr().BitLen()-p.Len))
	b := base.Add(base, step).FillBytes(make([]byte, p.Network.Addr().BitLen()/8))
	a, _ := netip.AddrFromSlice(b)
	return a
}

func (p Part) last() netip.Addr {
	b := p.Network.Addr().AsSlice()
	for i := p.Network.Bits(); i < p.Len; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Contains reports whether r is one of the ranges that are given out.
func (p Part) Contains(r netip.Prefix) bool {
	return r.IsValid() && r.Bits() == p.Len && r == r.Masked() && p.Network.Contains(r.Addr()) && !r.Addr().Less(p.Min) && !p.Max.Less(r.Addr())
}

// Count is how many ranges are given out, at most the largest int.
func (p Part) Count() int {
	if !p.Min.IsValid() {
		return 0
	}
	n := new(big.Int).Sub(new(big.Int).SetBytes(p.Max.AsSlice()), new(big.Int).SetBytes(p.Min.AsSlice()))
	n.Rsh(n, uint(p.Min.BitLen()-p.Len))
	const most = int(^uint(0) >> 1)
	if !n.IsInt64() || n.Int64() >= int64(most) {
		return most
	}
	return int(n.Int64()) + 1
}

// Range is number n of those that are given out, from 0 to [Part.Count] - 1.
func (p Part) Range(n int) netip.Prefix {
	q := p
	q.Network = netip.PrefixFrom(p.Min, p.Network.Bits())
	return netip.PrefixFrom(q.at(int64(n)), p.Len)
}

// null reports whether a key is not there, or has no value.
func null(v []byte) bool { return len(v) == 0 || bytes.Equal(bytes.TrimSpace(v), []byte("null")) }

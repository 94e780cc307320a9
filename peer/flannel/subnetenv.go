package flannel

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// SubnetEnvPath is where flannel puts the file, and where CNI plugins look for it.
const SubnetEnvPath = "/run/flannel/subnet.env"

// The keys of subnet.env, in flannel's order.
const (
	envNetwork     = "FLANNEL_NETWORK"
	envSubnet      = "FLANNEL_SUBNET"
	envIPv6Network = "FLANNEL_IPV6_NETWORK"
	envIPv6Subnet  = "FLANNEL_IPV6_SUBNET"
	envMTU         = "FLANNEL_MTU"
	envIPMasq      = "FLANNEL_IPMASQ"
)

// SubnetEnv is what a node of a flannel network tells the programs that attach pods: the contents of subnet.env.
type SubnetEnv struct {
	Networks []netip.Prefix // of all nodes; usually one for each family, IPv4 first
	Subnets  []netip.Prefix // this node's ranges, at most one for each family, IPv4 first
	MTU      int            // bytes, for pods; 68 to 65535
	IPMasq   bool           // the node masquerades what leaves the network, so that nobody else has to
}

// Gateway is the address of the pods' gateway with the length of the range: the first address after the base, as flannel
// has it.
func Gateway(subnet netip.Prefix) netip.Prefix {
	return netip.PrefixFrom(subnet.Masked().Addr().Next(), subnet.Bits())
}

// Format is the file, byte for byte as flannel v0.28 writes it. A family of which nothing is known has no lines. Whether
// [ParseSubnetEnv] takes it is for [SubnetEnv.Validate] to say.
func (e SubnetEnv) Format() []byte {
	var b []byte
	for _, f := range []struct {
		is4             bool
		network, subnet string
	}{{true, envNetwork, envSubnet}, {false, envIPv6Network, envIPv6Subnet}} {
		if nets := ofFamily(e.Networks, f.is4); len(nets) > 0 {
			b = fmt.Appendf(b, "%s=%s\n", f.network, commas(nets))
		}
		for _, s := range ofFamily(e.Subnets, f.is4) {
			b = fmt.Appendf(b, "%s=%s\n", f.subnet, Gateway(s))
		}
	}
	return fmt.Appendf(b, "%s=%d\n%s=%t\n", envMTU, e.MTU, envIPMasq, e.IPMasq)
}

// ParseSubnetEnv reads a subnet.env. Keys that flannel does not write are passed over, as are empty lines and those that
// begin with '#'; of a key that comes twice the last one counts. An error names the line, the key and the value, or the keys
// that are missing, and what is wanted; one is enough of FLANNEL_NETWORK and FLANNEL_IPV6_NETWORK, and of the two subnets.
// A file that was cut off anywhere is an error.
func ParseSubnetEnv(data []byte) (SubnetEnv, error) {
	var r envReader
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return SubnetEnv{}, fmt.Errorf("subnet.env: line %d is %q; want KEY=VALUE", n, cut(line))
		}
		if want := r.set(key, value); want != "" {
			return SubnetEnv{}, fmt.Errorf("subnet.env: line %d: key %s is %q; want %s", n, key, cut(value), want)
		}
	}
	return r.finish()
}

// envReader collects the values of the keys.
type envReader struct {
	networks, subnets [2][]netip.Prefix // IPv4, IPv6
	mtu               int
	ipMasq            string
}

// set takes one key and returns what its value should be if it is not that.
func (r *envReader) set(key, value string) (want string) {
	var ok bool
	switch key {
	case envNetwork:
		r.networks[0], ok = parseNetworks(value, true)
		want = "IPv4 prefixes with ',' between them, such as 10.244.0.0/16"
	case envIPv6Network:
		r.networks[1], ok = parseNetworks(value, false)
		want = "IPv6 prefixes with ',' between them, such as fd00:10:244::/48"
	case envSubnet:
		r.subnets[0], ok = parseSubnet(value, true)
		want = "an IPv4 address with a length of at most 30, such as 10.244.1.1/24"
	case envIPv6Subnet:
		r.subnets[1], ok = parseSubnet(value, false)
		want = "an IPv6 address with a length of at most 126, such as fd00:10:244:1::1/64"
	case envMTU:
		r.mtu, ok = parseMTU(value)
		want = fmt.Sprintf("%d to %d bytes", minMTU, maxMTU)
	case envIPMasq:
		r.ipMasq, ok = value, value == "true" || value == "false"
		want = "true or false"
	default:
		return ""
	}
	if ok {
		return ""
	}
	return want
}

func (r *envReader) finish() (SubnetEnv, error) {
	e := SubnetEnv{MTU: r.mtu, IPMasq: r.ipMasq == "true",
		Networks: append(r.networks[0], r.networks[1]...), Subnets: append(r.subnets[0], r.subnets[1]...)}
	missing := e.missing()
	if r.ipMasq == "" {
		missing = append(missing, envIPMasq)
	}
	if len(missing) > 0 {
		return SubnetEnv{}, fmt.Errorf("subnet.env: without %s; want the file as flanneld or the node agent writes it", strings.Join(missing, ", "))
	}
	return e, nil
}

func (e SubnetEnv) missing() (keys []string) {
	if len(e.Networks) == 0 {
		keys = append(keys, envNetwork+" or "+envIPv6Network)
	}
	if len(e.Subnets) == 0 {
		keys = append(keys, envSubnet+" or "+envIPv6Subnet)
	}
	if e.MTU == 0 {
		keys = append(keys, envMTU)
	}
	return keys
}

// Validate tells what of it nobody could read: no network or range, prefixes with host bits, a range too small to have a
// gateway and a pod, a second one of a family, an MTU out of bounds.
func (e SubnetEnv) Validate() error {
	var errs []error
	if missing := e.missing(); len(missing) > 0 {
		errs = append(errs, fmt.Errorf("subnet.env: without %s", strings.Join(missing, ", ")))
	}
	for _, p := range e.Networks {
		if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
			errs = append(errs, fmt.Errorf("subnet.env: network %s: want a prefix without host bits", p))
		}
	}
	seen := map[bool]bool{}
	for _, p := range e.Subnets {
		is4 := p.Addr().Is4()
		switch {
		case !p.IsValid() || p != p.Masked() || p.Addr().Is4In6():
			errs = append(errs, fmt.Errorf("subnet.env: range %s: want a prefix without host bits", p))
		case p.Bits() > p.Addr().BitLen()-2:
			errs = append(errs, fmt.Errorf("subnet.env: range %s: want a length of at most %d", p, p.Addr().BitLen()-2))
		case seen[is4]:
			errs = append(errs, fmt.Errorf("subnet.env: range %s is the second one of its family; want one", p))
		}
		seen[is4] = true
	}
	if e.MTU != 0 && (e.MTU < minMTU || e.MTU > maxMTU) {
		errs = append(errs, fmt.Errorf("subnet.env: MTU %d: want %d to %d bytes", e.MTU, minMTU, maxMTU))
	}
	return errors.Join(errs...)
}

const (
	minMTU = 68 // RFC 791
	maxMTU = 65535
)

func parseMTU(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return int(n), err == nil && n >= minMTU
}

func parseNetworks(s string, is4 bool) (nets []netip.Prefix, ok bool) {
	for part := range strings.SplitSeq(s, ",") {
		p, err := netip.ParsePrefix(part)
		if err != nil || p.Addr().Is4() != is4 || p.Addr().Is4In6() {
			return nil, false
		}
		nets = append(nets, p.Masked())
	}
	return nets, true
}

func parseSubnet(s string, is4 bool) ([]netip.Prefix, bool) {
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4() != is4 || p.Addr().Is4In6() || p.Bits() > p.Addr().BitLen()-2 {
		return nil, false
	}
	return []netip.Prefix{p.Masked()}, true
}

func ofFamily(all []netip.Prefix, is4 bool) (out []netip.Prefix) {
	for _, p := range all {
		if p.Addr().Is4() == is4 {
			out = append(out, p)
		}
	}
	return out
}

func commas(all []netip.Prefix) string {
	words := make([]string, len(all))
	for i, p := range all {
		words[i] = p.String()
	}
	return strings.Join(words, ",")
}

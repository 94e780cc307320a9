package portmap

import (
	"cmp"
	"net/netip"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/portmap"
)

// conf are the keys.
type conf struct {
	Backend              string   `json:"backend"`
	SNAT                 *bool    `json:"snat"`
	MasqAll              bool     `json:"masqAll"`
	MarkMasqBit          *int     `json:"markMasqBit"`
	ExternalSetMarkChain *string  `json:"externalSetMarkChain"`
	ConditionsV4         []string `json:"conditionsV4"`
	ConditionsV6         []string `json:"conditionsV6"`
	RuntimeConfig        struct {
		PortMappings []mapping `json:"portMappings"`
	} `json:"runtimeConfig"`
}

// mapping is an entry of the capability portMappings.
type mapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

// defaultMarkBit is the reference's.
const defaultMarkBit = 13

// read reads the configuration: of DEL and GC as much as can be read.
func read(r *cni.Request) (c conf, err error) {
	if r.Verb == cni.DEL || r.Verb == cni.GC {
		return c, r.DecodeLeast(&c)
	}
	if err := r.Decode(&c); err != nil {
		return c, err
	}
	return c, c.validate()
}

func (c *conf) validate() error {
	wantsIPTables := c.ExternalSetMarkChain != nil || iptablesSyntax(c.ConditionsV4) || iptablesSyntax(c.ConditionsV6)
	if c.Backend == "" && wantsIPTables {
		c.Backend = "iptables"
	}
	bit := defaultMarkBit
	if c.MarkMasqBit != nil {
		bit = *c.MarkMasqBit
	}
	switch {
	case c.Backend != "" && c.Backend != "nftables" && c.Backend != "iptables":
		return cni.Errorf(cni.ErrConfig, `netconf: key "backend" is %q; want "nftables" or "iptables", or leave it out`, c.Backend)
	case c.MarkMasqBit != nil && c.ExternalSetMarkChain != nil:
		return cni.Errorf(cni.ErrConfig, `netconf: keys "externalSetMarkChain" and "markMasqBit" exclude each other: leave one out`)
	case bit < 0 || bit > 31:
		return cni.Errorf(cni.ErrConfig, `netconf: key "markMasqBit" is %d; want 0 to 31`, bit)
	case c.Backend == "nftables" && c.ExternalSetMarkChain != nil:
		return cni.Errorf(cni.ErrConfig, `netconf: key "externalSetMarkChain" needs "backend": "iptables"`)
	case c.Backend != "iptables" && len(c.ConditionsV4) > 0:
		return cni.Errorf(cni.ErrConfig, `netconf: key "conditionsV4" is %q; want arguments of iptables, and "backend": "iptables"`, c.ConditionsV4)
	case c.Backend != "iptables" && len(c.ConditionsV6) > 0:
		return cni.Errorf(cni.ErrConfig, `netconf: key "conditionsV6" is %q; want arguments of iptables, and "backend": "iptables"`, c.ConditionsV6)
	}
	return nil
}

// backend is the one that is asked for, else nftables where the kernel has it.
func (c conf) backend(ns *netns.NS) portmap.Backend {
	iptables := c.Backend == "iptables"
	if c.Backend == "" { // a failure that passes must not move a pod to another backend
		has, err := portmap.Supported(ns)
		iptables = !has && err == nil
	}
	if iptables {
		t := portmap.IPTables{NS: ns, MarkBit: defaultMarkBit, ConditionsV4: c.ConditionsV4, ConditionsV6: c.ConditionsV6}
		if c.MarkMasqBit != nil {
			t.MarkBit = *c.MarkMasqBit
		}
		if c.ExternalSetMarkChain != nil {
			t.SetMarkChain = *c.ExternalSetMarkChain
		}
		return t
	}
	return portmap.Table{NS: ns}
}

// pod is what the container is to have.
func (c conf) pod(r *cni.Request) (portmap.Pod, error) {
	p := portmap.Pod{Owner: link.Alias(r.Network, r.ContainerID, r.IfName)}
	switch {
	case c.SNAT != nil && !*c.SNAT:
		p.SNAT = portmap.SNATNone
	case c.MasqAll:
		p.SNAT = portmap.SNATAll
	}
	for i, l := range r.Prev.Interfaces {
		if i > 0 && l.Name == r.IfName && l.Sandbox != "" && r.Prev.Interfaces[i-1].Sandbox == "" {
			p.Device = r.Prev.Interfaces[i-1].Name // a veth pair: its host end
		}
	}
	var has [2]bool // IPv4, IPv6
	for _, ip := range r.PrevIPs() {
		if f := family(ip.Address.Addr()); !has[f] {
			has[f] = true
			p.Addrs = append(p.Addrs, ip.Address)
		}
	}
	for i, m := range c.RuntimeConfig.PortMappings {
		maps, err := m.maps(p.Addrs)
		if err != nil {
			return p, cni.Errorf(cni.ErrConfig, `netconf: key "runtimeConfig.portMappings[%d]": %w`, i, err)
		}
		p.Maps = append(p.Maps, maps...)
	}
	if err := p.Validate(); err != nil {
		return p, cni.Errorf(cni.ErrConfig, `netconf: key "runtimeConfig.portMappings": %w`, err)
	}
	return p, nil
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// hosts are the mappings that can be read, as far as the node goes, on every family.
func (c conf) hosts() (maps []portmap.Map) {
	for _, m := range c.RuntimeConfig.PortMappings {
		proto, host, err := m.parse()
		for _, a := range hostAddrs(host) {
			if err == nil {
				maps = append(maps, portmap.Map{Proto: proto, Host: netip.AddrPortFrom(a, uint16(m.HostPort))})
			}
		}
	}
	return maps
}

// hostAddrs is the address, or where there is none every address of either family.
func hostAddrs(host netip.Addr) []netip.Addr {
	if host.IsValid() {
		return []netip.Addr{host}
	}
	return []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
}

func (m mapping) parse() (proto portmap.Proto, host netip.Addr, err error) {
	if m.HostPort < 1 || m.HostPort > 65535 {
		return 0, host, cni.Errorf(cni.ErrConfig, `"hostPort" is %d; want 1 to 65535`, m.HostPort)
	}
	if m.ContainerPort < 1 || m.ContainerPort > 65535 {
		return 0, host, cni.Errorf(cni.ErrConfig, `"containerPort" is %d; want 1 to 65535`, m.ContainerPort)
	}
	if proto, err = portmap.ParseProto(cmp.Or(m.Protocol, "tcp")); err != nil || m.HostIP == "" {
		return proto, host, err
	}
	if host, err = netip.ParseAddr(m.HostIP); err != nil {
		return proto, host, cni.Errorf(cni.ErrConfig, `"hostIP" is %q; want an address of the node, or leave it out`, m.HostIP)
	}
	return proto, host.Unmap(), nil
}

// maps lead to the addresses of the container, in the family of hostIP if there is one.
func (m mapping) maps(addrs []netip.Prefix) (maps []portmap.Map, err error) {
	proto, host, err := m.parse()
	if err != nil {
		return nil, err
	}
	for _, h := range hostAddrs(host) {
		for _, a := range addrs {
			if a.Addr().Is4() == h.Is4() {
				maps = append(maps, portmap.Map{Proto: proto, Host: netip.AddrPortFrom(h, uint16(m.HostPort)), Pod: netip.AddrPortFrom(a.Addr(), uint16(m.ContainerPort))})
			}
		}
	}
	if len(maps) == 0 && host.IsValid() {
		return nil, cni.Errorf(cni.ErrConfig, `"hostIP" is %q, and the container has no address of that family`, m.HostIP)
	}
	if len(maps) == 0 {
		return nil, cni.Errorf(cni.ErrConfig, `the container has no address: state "portmap" after the plugin that gives one`)
	}
	return maps, nil
}

//go:build linux

package attach

import (
	"slices"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/lazyjson"
	"github.com/cniblocks/cniblocks/ipam"
)

// Common are the keys that all main plugins have. A plugin embeds it, or [Conf], in its netconf.
type Common struct {
	MTU  int      `json:"mtu"` // of the pod's interface, in bytes; 0: the kernel's choice
	DNS  *cni.DNS `json:"dns"` // in place of what the IPAM plugin says
	Args struct {
		CNI struct {
			MAC string `json:"mac"`
		} `json:"cni"`
	} `json:"args"`
	RuntimeConfig struct {
		MAC      string      `json:"mac"`
		IPRanges []ipam.Pool `json:"ipRanges"`
	} `json:"runtimeConfig"`
	IPAM IPAM `json:"ipam"`
}

// Conf are the keys of main plugins whose pods have the node as their way out.
type Conf struct {
	Common
	Masq
	IPMasqElsewhere bool `json:"ipMasqElsewhere"` // the plugin that delegates to this one does it
}

// IPAM is what a main plugin must know of the IPAM plugin's part, which that plugin reads itself.
type IPAM struct {
	Type    string
	DataDir string // of host-local; "": [ipam.DefaultDataDir]
	raw     []byte
	first   ipam.Range
	ranges  []ipam.Pool
}

// UnmarshalJSON reads the ranges too if the type is host-local. Type and DataDir are read even if the ranges are wrong.
func (c *IPAM) UnmarshalJSON(b []byte) error {
	var kind struct {
		Type    string `json:"type"`
		DataDir string `json:"dataDir"`
	}
	if err := lazyjson.Unmarshal(b, &kind); err != nil {
		return err
	}
	c.Type, c.DataDir, c.raw = kind.Type, kind.DataDir, slices.Clone(b)
	if c.Type != hostLocal {
		return nil
	}
	return c.readRanges()
}

func (c *IPAM) readRanges() error {
	var r struct {
		ipam.Range
		Ranges []ipam.Pool `json:"ranges"`
	}
	if err := lazyjson.Unmarshal(c.raw, &r); err != nil {
		return err
	}
	c.first, c.ranges = r.Range, r.Ranges
	return nil
}

const (
	hostLocal = "host-local"
	minMTU    = 68 // RFC 791
	maxMTU    = 65535
)

// Netconf is a struct that embeds [Common] or [Conf].
type Netconf interface {
	common() *Common
	snat() *Conf
	// Validate fails if a key that the plugin adds is wrong.
	Validate(*cni.Request) error
}

func (c *Common) common() *Common { return c }
func (c *Common) snat() *Conf     { return &Conf{} }
func (c *Conf) snat() *Conf       { return c }

// Validate is for plugins that add no key.
func (*Common) Validate(*cni.Request) error { return nil }

// Validate is for plugins that add no key.
func (*Conf) Validate(*cni.Request) error { return nil }

// NeedIPAM fails if no IPAM plugin is named, for plugins whose interfaces are of no use without an address.
func (c *Common) NeedIPAM(r *cni.Request) error {
	if c.IPAM.Type == "" {
		return cni.Errorf(cni.ErrConfig, `netconf: key "ipam" is missing; %s wants an IPAM plugin there, such as {"type": "host-local", "subnet": "10.22.0.0/24"}`, r.Type)
	}
	return nil
}

// Addressed is [Conf] for a plugin that needs an IPAM plugin.
type Addressed struct{ Conf }

// Validate fails if no IPAM plugin is named.
func (c *Addressed) Validate(r *cni.Request) error { return c.NeedIPAM(r) }

// validate judges the common keys, and fills in what follows from them.
func (p *Pod) validate() error {
	c := p.conf
	if c.MTU != 0 && (c.MTU < minMTU || c.MTU > maxMTU) {
		return cni.Errorf(cni.ErrConfig, `netconf: key "mtu" is %d; want %d to %d, or 0 for the kernel's choice`, c.MTU, minMTU, maxMTU)
	}
	if err := p.snat.Masq.Validate(); err != nil {
		return err
	}
	if err := p.readMAC(); err != nil {
		return err
	}
	return p.readPools()
}

// readMAC takes the address from where the reference does: the last of CNI_ARGS, args.cni and runtimeConfig wins.
func (p *Pod) readMAC() (err error) {
	if err := p.CheckArgs(); err != nil {
		return err
	}
	arg, _ := p.Arg("MAC")
	for _, m := range []struct{ key, value string }{{"CNI_ARGS MAC", arg}, {"args.cni.mac", p.conf.Args.CNI.MAC}, {"runtimeConfig.mac", p.conf.RuntimeConfig.MAC}} {
		if m.value == "" {
			continue
		}
		if p.MAC, err = inet.ParseMAC(m.value); err != nil {
			return cni.Errorf(cni.ErrConfig, "netconf: key %q: %w", m.key, err)
		}
	}
	return nil
}

func (p *Pod) readPools() (err error) {
	c := &p.conf.IPAM
	if kind := p.Kind(c.Type); kind != c.Type {
		c.Type = kind
		if err := c.readRanges(); err != nil {
			return cni.Errorf(cni.ErrConfig, "netconf: key \"ipam\": %w", err)
		}
	}
	if c.Type != hostLocal {
		return nil
	}
	pools := slices.Clone(p.conf.RuntimeConfig.IPRanges)
	if c.first.Subnet.IsValid() {
		pools = append(pools, ipam.Pool{c.first})
	}
	pools = append(pools, c.ranges...)
	for _, r := range slices.Concat(pools...) {
		if err := p.checkMTU(r.Subnet.Addr()); err != nil {
			return err
		}
	}
	if p.Pools, err = ipam.Canonical(pools...); err != nil {
		return cni.Errorf(cni.ErrConfig, "netconf: key \"ipam\": %w", err)
	}
	return nil
}

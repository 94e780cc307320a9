package bridge

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/lazyjson"
	"github.com/cniblocks/cniblocks/ipam"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/masq"
)

// conf is the netconf: every key of the reference's bridge plugin, with its meaning, ipMasqExcept and ipMasqElsewhere. It is large
// since it is data, with a field for each key.
type conf struct {
	Bridge                    string         `json:"bridge"`
	IsGateway                 bool           `json:"isGateway"`
	IsDefaultGateway          bool           `json:"isDefaultGateway"`
	ForceAddress              bool           `json:"forceAddress"`
	IPMasq                    masq.Families  `json:"ipMasq"`
	IPMasqBackend             string         `json:"ipMasqBackend"`
	IPMasqExcept              []netip.Prefix `json:"ipMasqExcept"`
	IPMasqElsewhere           bool           `json:"ipMasqElsewhere"` // the plugin that delegates to this one does it
	MTU                       int            `json:"mtu"`
	HairpinMode               bool           `json:"hairpinMode"`
	PromiscMode               bool           `json:"promiscMode"`
	VLAN                      int            `json:"vlan"`
	VLANTrunk                 []trunk        `json:"vlanTrunk"`
	PreserveDefaultVLAN       bool           `json:"preserveDefaultVlan"`
	MACSpoofChk               bool           `json:"macspoofchk"`
	EnableDAD                 bool           `json:"enabledad"`
	DisableContainerInterface bool           `json:"disableContainerInterface"`
	PortIsolation             bool           `json:"portIsolation"`
	DNS                       *cni.DNS       `json:"dns"`

	Args struct {
		CNI struct {
			MAC string `json:"mac"`
		} `json:"cni"`
	} `json:"args"`
	RuntimeConfig struct {
		MAC      string      `json:"mac"`
		IPRanges []ipam.Pool `json:"ipRanges"`
	} `json:"runtimeConfig"`
	IPAM ipamConf `json:"ipam"`

	least bool // the configuration is broken, and only what DEL and GC must know was read
	mac   inet.MAC
	port  bridge.Port
	pools []ipam.Pool // of host-local, canonical; what SNAT and GC go by
}

// trunk is one VLAN, or a range of them, that passes tagged.
type trunk struct {
	MinID *int `json:"minID"`
	MaxID *int `json:"maxID"`
	ID    *int `json:"id"`
}

// ipamConf is what this plugin must know of the IPAM plugin's part, which that plugin reads itself.
type ipamConf struct {
	Type    string
	DataDir string
	raw     []byte
	first   ipam.Range
	ranges  []ipam.Pool
}

func (c *ipamConf) UnmarshalJSON(b []byte) error {
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

func (c *ipamConf) readRanges() error {
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
	hostLocal     = "host-local"
	defaultBridge = "cni0" // as the reference has it
	minMTU        = 68     // RFC 791
	maxMTU        = 65535
)

// load reads and checks the whole configuration, so that nothing is changed for a wrong one. What was added must go,
// whatever the configuration became: for DEL and GC the little that they need is enough.
func load(r *cni.Request) (*conf, error) {
	c, err := loadAll(r)
	if err == nil || r.Verb != cni.DEL && r.Verb != cni.GC {
		return c, err
	}
	var least struct {
		Bridge    string          `json:"bridge"`
		Elsewhere json.RawMessage `json:"ipMasqElsewhere"`
		IPAM      struct {
			Type    string `json:"type"`
			DataDir string `json:"dataDir"`
		} `json:"ipam"`
	}
	least.Bridge = defaultBridge
	if lazyjson.Unmarshal(r.Config, &least) != nil {
		return nil, err
	}
	r.Warn("%v", err)
	return &conf{least: true, Bridge: least.Bridge, IPMasqElsewhere: string(least.Elsewhere) == "true", IPAM: ipamConf{Type: r.Kind(least.IPAM.Type), DataDir: least.IPAM.DataDir}}, nil
}

func loadAll(r *cni.Request) (*conf, error) {
	c := &conf{Bridge: defaultBridge}
	if err := r.Decode(c); err != nil {
		return nil, err
	}
	if c.IsDefaultGateway {
		c.IsGateway = true
	}
	for _, check := range []func(*cni.Request) error{c.checkKeys, c.readVLANs, c.readMAC, c.readPools} {
		if err := check(r); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *conf) checkKeys(*cni.Request) error {
	bad := func(format string, a ...any) error { return cni.Errorf(cni.ErrConfig, "netconf: "+format, a...) }
	switch {
	case !cni.ValidIfName(c.Bridge):
		return bad(`key "bridge" is %q; want at most 15 bytes without '/', ':', '%%' and white space`, c.Bridge)
	case c.Bridge == "all" || c.Bridge == "default":
		return bad(`key "bridge" is %q, which the kernel keeps for the parameters of all interfaces; want another name`, c.Bridge)
	case c.MTU != 0 && (c.MTU < minMTU || c.MTU > maxMTU):
		return bad(`key "mtu" is %d; want %d to %d, or 0 for the kernel's choice`, c.MTU, minMTU, maxMTU)
	case c.HairpinMode && c.PromiscMode:
		return bad(`keys "hairpinMode" and "promiscMode" are both true; choose one: each lets pods reach themselves by a service address`)
	case c.IPAM.Type != "" && c.DisableContainerInterface:
		return bad(`keys "ipam" and "disableContainerInterface" exclude each other: an interface that stays down has no use for an address`)
	case c.IPMasqBackend != "" && c.IPMasqBackend != "iptables" && c.IPMasqBackend != "nftables":
		return bad(`key "ipMasqBackend" is %q; want "nftables" or "iptables", or leave it out`, c.IPMasqBackend)
	}
	for _, p := range c.IPMasqExcept {
		if p != p.Masked() {
			return bad(`key "ipMasqExcept": %s has host bits; want %s`, p, p.Masked())
		}
	}
	return nil
}

func (c *conf) readVLANs(*cni.Request) error {
	check := func(key string, id int) error {
		if id < 1 || id > bridge.MaxVLAN {
			return cni.Errorf(cni.ErrConfig, "netconf: key %q is %d; want 1 to %d", key, id, bridge.MaxVLAN)
		}
		return nil
	}
	if c.VLAN != 0 {
		if err := check("vlan", c.VLAN); err != nil {
			return err
		}
	}
	c.port = bridge.Port{VLAN: uint16(c.VLAN), KeepDefault: c.PreserveDefaultVLAN}
	if err := c.readTrunk(check); err != nil {
		return err
	}
	if c.VLAN != 0 && c.IsGateway && len(bridge.VLANGatewayName(c.Bridge, c.port.VLAN)) > 15 {
		return cni.Errorf(cni.ErrConfig, `netconf: key "bridge" is %q: the gateway device %s of VLAN %d would have more than 15 bytes; want a shorter name`,
			c.Bridge, bridge.VLANGatewayName(c.Bridge, c.port.VLAN), c.VLAN)
	}
	return nil
}

// readTrunk collects the tagged VLANs, each once, however many ranges name it.
func (c *conf) readTrunk(check func(key string, id int) error) error {
	var tagged [bridge.MaxVLAN + 1]bool
	for i, t := range c.VLANTrunk {
		at := fmt.Sprintf("vlanTrunk[%d]", i)
		switch {
		case (t.MinID == nil) != (t.MaxID == nil):
			return cni.Errorf(cni.ErrConfig, `netconf: key %q has one of "minID" and "maxID"; want both, or "id"`, at)
		case t.MinID == nil && t.ID == nil:
			return cni.Errorf(cni.ErrConfig, `netconf: key %q is empty; want "id", or "minID" and "maxID"`, at)
		}
		if t.MinID != nil {
			if err := firstError(check(at+".minID", *t.MinID), check(at+".maxID", *t.MaxID)); err != nil {
				return err
			}
			if *t.MaxID < *t.MinID {
				return cni.Errorf(cni.ErrConfig, `netconf: key %q: "minID" %d is above "maxID" %d`, at, *t.MinID, *t.MaxID)
			}
			for id := *t.MinID; id <= *t.MaxID; id++ {
				tagged[id] = true
			}
		}
		if t.ID != nil {
			if err := check(at+".id", *t.ID); err != nil {
				return err
			}
			tagged[*t.ID] = true
		}
	}
	for id, is := range tagged {
		if is {
			c.port.Trunk = append(c.port.Trunk, uint16(id))
		}
	}
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// readMAC takes the address from where the reference does: the last of CNI_ARGS, args.cni and runtimeConfig wins.
func (c *conf) readMAC(r *cni.Request) (err error) {
	if err := r.CheckArgs(); err != nil {
		return err
	}
	arg, _ := r.Arg("MAC")
	for _, m := range []struct{ key, value string }{{"CNI_ARGS MAC", arg}, {"args.cni.mac", c.Args.CNI.MAC}, {"runtimeConfig.mac", c.RuntimeConfig.MAC}} {
		if m.value == "" {
			continue
		}
		if c.mac, err = inet.ParseMAC(m.value); err != nil {
			return cni.Errorf(cni.ErrConfig, "netconf: key %q: %w", m.key, err)
		}
	}
	return nil
}

func (c *conf) readPools(r *cni.Request) error {
	if kind := r.Kind(c.IPAM.Type); kind != c.IPAM.Type {
		c.IPAM.Type = kind
		if err := c.IPAM.readRanges(); err != nil {
			return cni.Errorf(cni.ErrConfig, "netconf: key \"ipam\": %w", err)
		}
	}
	if c.IPAM.Type != hostLocal {
		return nil
	}
	pools := slices.Clone(c.RuntimeConfig.IPRanges)
	if c.IPAM.first.Subnet.IsValid() {
		pools = append(pools, ipam.Pool{c.IPAM.first})
	}
	pools = append(pools, c.IPAM.ranges...)
	for _, r := range slices.Concat(pools...) {
		if err := c.checkMTU(r.Subnet.Addr()); err != nil {
			return err
		}
	}
	canonical, err := ipam.Canonical(pools...)
	if err != nil {
		return cni.Errorf(cni.ErrConfig, "netconf: key \"ipam\": %w", err)
	}
	c.pools = canonical
	return nil
}

// wanted is the bridge as the configuration has it.
func (c *conf) wanted(network string) bridge.Bridge {
	return bridge.Bridge{Name: c.Bridge, MTU: c.MTU, Promisc: c.PromiscMode, Alias: link.NetworkAlias(network),
		VLANFiltering: c.VLAN != 0 || len(c.VLANTrunk) > 0}
}

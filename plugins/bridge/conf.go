package bridge

import (
	"cmp"
	"fmt"

	"github.com/cniblocks/cniblocks/attach"
	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/link"
)

// conf is the netconf: every key of the reference's bridge plugin, with its meaning, ipMasqExcept and ipMasqElsewhere. It is large
// since it is data, with a field for each key.
type conf struct {
	attach.Conf
	Bridge                    string  `json:"bridge"`
	IsGateway                 bool    `json:"isGateway"`
	IsDefaultGateway          bool    `json:"isDefaultGateway"`
	ForceAddress              bool    `json:"forceAddress"`
	HairpinMode               bool    `json:"hairpinMode"`
	PromiscMode               bool    `json:"promiscMode"`
	VLAN                      int     `json:"vlan"`
	VLANTrunk                 []trunk `json:"vlanTrunk"`
	PreserveDefaultVLAN       bool    `json:"preserveDefaultVlan"`
	MACSpoofChk               bool    `json:"macspoofchk"`
	EnableDAD                 bool    `json:"enabledad"`
	DisableContainerInterface bool    `json:"disableContainerInterface"`
	PortIsolation             bool    `json:"portIsolation"`

	port bridge.Port
}

// trunk is one VLAN, or a range of them, that passes tagged.
type trunk struct {
	MinID *int `json:"minID"`
	MaxID *int `json:"maxID"`
	ID    *int `json:"id"`
}

const defaultBridge = "cni0" // as the reference has it

// Validate judges the keys that only this plugin has.
func (c *conf) Validate(*cni.Request) error {
	bad := func(format string, a ...any) error { return cni.Errorf(cni.ErrConfig, "netconf: "+format, a...) }
	switch {
	case !cni.ValidIfName(c.Bridge):
		return bad(`key "bridge" is %q; want at most 15 bytes without '/', ':', '%%' and white space`, c.Bridge)
	case c.Bridge == "all" || c.Bridge == "default":
		return bad(`key "bridge" is %q, which the kernel keeps for the parameters of all interfaces; want another name`, c.Bridge)
	case c.HairpinMode && c.PromiscMode:
		return bad(`keys "hairpinMode" and "promiscMode" are both true; choose one: each lets pods reach themselves by a service address`)
	case c.IPAM.Type != "" && c.DisableContainerInterface:
		return bad(`keys "ipam" and "disableContainerInterface" exclude each other: an interface that stays down has no use for an address`)
	}
	return c.readVLANs()
}

func (c *conf) readVLANs() error {
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
	if c.VLAN != 0 && (c.IsGateway || c.IsDefaultGateway) && len(bridge.VLANGatewayName(c.Bridge, c.port.VLAN)) > 15 {
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
			if err := cmp.Or(check(at+".minID", *t.MinID), check(at+".maxID", *t.MaxID)); err != nil {
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

// wanted is the bridge as the configuration has it.
func (j *job) wanted() bridge.Bridge {
	return bridge.Bridge{Name: j.Bridge, MTU: j.MTU, Promisc: j.PromiscMode, Alias: link.NetworkAlias(j.Network),
		VLANFiltering: j.VLAN != 0 || len(j.VLANTrunk) > 0}
}

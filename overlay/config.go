//go:build linux

package overlay

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Config is an encapsulation as a configuration file states it. Keys that the encapsulation does not know are errors, so
// that nobody relies on what is not done.
type Config struct {
	Encap string `json:"encap,omitempty"` // the Name of an [Encap]

	VNI           uint32 `json:"vni,omitempty"`
	Port          uint16 `json:"port,omitempty"`
	GBP           bool   `json:"gbp,omitempty"`
	GPE           bool   `json:"gpe,omitempty"`
	DirectRouting bool   `json:"directRouting,omitempty"`

	Mode  string `json:"mode,omitempty"` // "point-to-point" or ""
	Key   uint32 `json:"key,omitempty"`
	NoKey bool   `json:"noKey,omitempty"`
	TTL   uint8  `json:"ttl,omitempty"`
	TOS   uint8  `json:"tos,omitempty"`

	PersistentKeepalive uint16 `json:"persistentKeepalive,omitempty"` // seconds
	KeyDir              string `json:"keyDir,omitempty"`              // see [WireGuard]

	L2            bool   `json:"l2,omitempty"`
	Bridge        string `json:"-"` // that the delegate makes; the ports of L2
	AllowUplink   bool   `json:"allowUplink,omitempty"`
	NeighSuppress bool   `json:"neighSuppress,omitempty"`
	PortIsolation bool   `json:"-"` // what the delegate is told of its ports
}

// PointToPoint is the value of [Config.Mode] that makes a device for each peer.
const PointToPoint = "point-to-point"

// encapNames are the encapsulations in the order of the documentation.
var encapNames = []string{"vxlan", "gre", "ipip", "geneve", "wireguard", "host-gw"}

// Names are the values of [Config.Encap], in the order of the documentation.
func Names() []string { return slices.Clone(encapNames) }

// encapKeys are what each encapsulation understands.
var encapKeys = map[string][]string{
	"vxlan":     {"vni", "port", "gbp", "gpe", "directRouting", "l2", "allowUplink", "neighSuppress"},
	"gre":       {"mode", "key", "noKey", "ttl", "tos", "l2", "allowUplink", "neighSuppress"},
	"ipip":      {"ttl", "tos"},
	"geneve":    {"vni", "port"},
	"wireguard": {"port", "persistentKeepalive", "keyDir"},
	"host-gw":   {},
}

// UnsupportedKey is a key of a [Config] that says something, and that the encapsulation does not have.
type UnsupportedKey struct {
	Encap, Key string
	Value      any
}

func (e *UnsupportedKey) Error() string {
	return fmt.Sprintf("key %q is %v, which %s does not have; want it removed", e.Key, e.Value, e.Encap)
}

// Encapsulation is what the configuration says, or why it cannot be: for a key of another encapsulation [*UnsupportedKey].
func (c Config) Encapsulation() (Encap, error) {
	if !slices.Contains(encapNames, c.Encap) {
		return nil, fmt.Errorf("encap %q: want one of %s", c.Encap, strings.Join(encapNames, ", "))
	}
	if err := c.refusal(); err != nil {
		return nil, err
	}
	for _, k := range c.stated() {
		if !slices.Contains(encapKeys[c.Encap], k.name) {
			return nil, &UnsupportedKey{c.Encap, k.name, k.value}
		}
	}
	var l2 L2
	if c.L2 {
		l2 = L2{Bridge: c.Bridge, AllowUplink: c.AllowUplink, NeighSuppress: c.NeighSuppress}
	}
	switch c.Encap {
	case "vxlan":
		return VXLAN{VNI: c.VNI, Port: c.Port, GBP: c.GBP, GPE: c.GPE, DirectRouting: c.DirectRouting, L2: l2}, nil
	case "gre":
		return GRE{Key: c.Key, NoKey: c.NoKey, TTL: c.TTL, TOS: c.TOS, PointToPoint: c.Mode == PointToPoint, L2: l2}, nil
	case "ipip":
		return IPIP{TTL: c.TTL, TOS: c.TOS}, nil
	case "geneve":
		return Geneve{VNI: c.VNI, Port: c.Port}, nil
	case "wireguard":
		return WireGuard{Port: c.Port, Keepalive: time.Duration(c.PersistentKeepalive) * time.Second, KeyDir: c.KeyDir}, nil
	}
	return Direct{}, nil
}

// refusal is the first reason why the keys do not go together.
func (c Config) refusal() error {
	switch {
	case c.Mode != "" && c.Mode != PointToPoint:
		return fmt.Errorf("\"mode\" is %q; want %q, or leave it out", c.Mode, PointToPoint)
	case c.L2 && c.Encap != "vxlan" && c.Encap != "gre":
		return fmt.Errorf("\"l2\" with encap %q: it carries no Ethernet; use vxlan or gre", c.Encap)
	case c.Mode == PointToPoint && c.Encap != "gre":
		return fmt.Errorf("mode %q with encap %q: one device serves all peers there; leave it out, or use gre", c.Mode, c.Encap)
	case c.L2 && c.Mode == PointToPoint:
		return errors.New("mode \"point-to-point\" with \"l2\": it is so already, leave it out")
	case c.L2 && c.Bridge == "":
		return errors.New("\"l2\" without a bridge: the delegate must be of type bridge")
	case c.L2 && c.PortIsolation && c.Encap == "gre":
		return errors.New("\"portIsolation\" with \"l2\" and encap \"gre\": the tunnels are isolated ports too, and isolated ports cannot talk to each other; leave it out, or use vxlan")
	case c.NoKey && c.Key != 0:
		return fmt.Errorf("\"noKey\" with key %d: state one of them", c.Key)
	}
	if err := c.l2Refusal(); err != nil {
		return err
	}
	return c.vxlanRefusal()
}

func (c Config) l2Refusal() error {
	switch {
	case c.AllowUplink && !c.L2:
		return errors.New("\"allowUplink\" without \"l2\": no tunnel is on a bridge; leave it out")
	case c.NeighSuppress && !c.L2:
		return errors.New("\"neighSuppress\" without \"l2\": no tunnel is on a bridge; leave it out")
	case c.NeighSuppress && c.AllowUplink:
		return errors.New("\"neighSuppress\" with \"allowUplink\": the MACs of what is behind the uplink do not derive from addresses, and may change; leave one of them out")
	}
	return nil
}

func (c Config) vxlanRefusal() error {
	switch {
	case c.GPE && c.GBP:
		return errors.New("\"gpe\" with \"gbp\": VXLAN-GPE has no group policy; leave one of them out")
	case c.GPE && c.L2:
		return errors.New("\"gpe\" with \"l2\": it carries no Ethernet; leave one of them out")
	case c.DirectRouting && c.L2:
		return errors.New("\"directRouting\" with \"l2\": nothing is routed there; leave one of them out")
	}
	return nil
}

type keyValue struct {
	name  string
	value any
}

// stated are the keys that say something.
func (c Config) stated() []keyValue {
	all := []keyValue{{"vni", c.VNI}, {"port", c.Port}, {"gbp", c.GBP}, {"gpe", c.GPE}, {"directRouting", c.DirectRouting},
		{"mode", c.Mode}, {"key", c.Key}, {"noKey", c.NoKey}, {"ttl", c.TTL}, {"tos", c.TOS},
		{"persistentKeepalive", c.PersistentKeepalive}, {"keyDir", c.KeyDir}, {"l2", c.L2}, {"allowUplink", c.AllowUplink},
		{"neighSuppress", c.NeighSuppress}}
	return slices.DeleteFunc(all, func(k keyValue) bool { return reflect.ValueOf(k.value).IsZero() })
}

//go:build linux

package overlay

import (
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strings"
)

// kinds are the encapsulations, each as its own file describes it, in the order of the documentation.
var kinds = []*kind{vxlanKind, greKind, ipipKind, geneveKind, wireguardKind, directKind}

// kind is what a configuration has to know of an encapsulation.
type kind struct {
	name         string
	keys         []*Key              // that it understands
	of           func(*Config) Encap // what the keys say
	refuse       func(*Config) error // its keys that do not go together; nil: they all do
	l2           bool                // it carries Ethernet
	pointToPoint bool                // it can have a device for each peer
	forms        []Config            // in which it works too, and which the table of what works tells
}

// Key is a key of a [Config]: under this name in JSON, and as an option of the agent with dashes in place of capitals.
type Key struct {
	Name  string
	Usage string            // of the option; "": it is none
	Value func(*Config) any // points to a uint32, uint16, uint8, bool or string
	bits  int               // of a number that has less than its type; 0: as many
	with  string            // another key that it needs, which usage begins with; "": usage ends with who has it
}

// Config is an encapsulation as a configuration file states it. Keys that the encapsulation does not know are errors, so
// that nobody relies on what is not done. It is large since it is data, a netconf: the sum of the encapsulations' keys, each of which one or more of them explain.
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
	DataDir             string `json:"-"`                             // in place of KeyDir where that is not stated

	L2            bool   `json:"l2,omitempty"`
	Bridge        string `json:"-"` // that the delegate makes; the ports of L2
	AllowUplink   bool   `json:"allowUplink,omitempty"`
	NeighSuppress bool   `json:"neighSuppress,omitempty"`
	PortIsolation bool   `json:"-"` // what the delegate is told of its ports
}

// PointToPoint is the value of [Config.Mode] that makes a device for each peer.
const PointToPoint = "point-to-point"

// Names are the values of [Config.Encap], in the order of the documentation.
func Names() []string { return namesOf(func(*kind) bool { return true }) }

func namesOf(which func(*kind) bool) (all []string) {
	for _, k := range kinds {
		if which(k) {
			all = append(all, k.name)
		}
	}
	return all
}

// Keys yields all keys, each with what an option of that name is told to be.
func Keys() iter.Seq2[*Key, string] {
	return func(yield func(*Key, string) bool) {
		seen := map[*Key]bool{}
		for _, k := range kinds {
			for _, key := range k.keys {
				if !seen[key] && !yield(key, key.usage()) {
					return
				}
				seen[key] = true
			}
		}
	}
}

// Most is the largest value of a number.
func (k *Key) Most() uint32 {
	bits := k.bits
	if bits == 0 {
		bits = reflect.TypeOf(k.Value(&Config{})).Elem().Bits()
	}
	return uint32(1<<bits - 1)
}

func (k *Key) usage() string {
	if k.Usage == "" || k.with != "" {
		return k.Usage
	}
	return k.Usage + ": " + strings.Join(namesOf(func(e *kind) bool { return slices.Contains(e.keys, k) }), ", ")
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
	i := slices.IndexFunc(kinds, func(k *kind) bool { return k.name == c.Encap })
	if i < 0 {
		return nil, fmt.Errorf("encap %q: want one of %s", c.Encap, strings.Join(Names(), ", "))
	}
	if err := c.refusal(kinds[i]); err != nil {
		return nil, err
	}
	for key := range Keys() {
		if v := reflect.ValueOf(key.Value(&c)).Elem(); !v.IsZero() && !slices.Contains(kinds[i].keys, key) {
			return nil, &UnsupportedKey{c.Encap, key.Name, v.Interface()}
		}
	}
	return kinds[i].of(&c), nil
}

// refusal is the first reason why the keys do not go together.
func (c *Config) refusal(k *kind) error {
	or := func(which func(*kind) bool) string { return strings.Join(namesOf(which), " or ") }
	switch {
	case c.Mode != "" && c.Mode != PointToPoint:
		return fmt.Errorf("\"mode\" is %q; want %q, or leave it out", c.Mode, PointToPoint)
	case c.L2 && !k.l2:
		return fmt.Errorf("\"l2\" with encap %q: it carries no Ethernet; use %s", c.Encap, or(func(k *kind) bool { return k.l2 }))
	case c.Mode == PointToPoint && !k.pointToPoint:
		return fmt.Errorf("mode %q with encap %q: one device serves all peers there; leave it out, or use %s", c.Mode, c.Encap, or(func(k *kind) bool { return k.pointToPoint }))
	case c.L2 && c.Mode == PointToPoint:
		return errors.New("mode \"point-to-point\" with \"l2\": it is so already, leave it out")
	case c.L2 && c.Bridge == "":
		return errors.New("\"l2\" without a bridge: the delegate must be of type bridge")
	}
	for _, e := range kinds { // keys of others that contradict each other are told as such
		if e.refuse != nil {
			if err := e.refuse(c); err != nil {
				return err
			}
		}
	}
	return c.l2Refusal()
}

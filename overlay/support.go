//go:build linux

package overlay

import (
	"iter"
	"slices"

	"github.com/cniblocks/cniblocks/inet"
)

// Support is one row of the table of what works: an encapsulation in one form, for pods of one family over an underlay of
// one family.
type Support struct {
	Config         Config
	Pods, Underlay inet.Family
	Refused        string // what the error says; "" works
	Overhead       int    // bytes that each packet of a pod grows by
}

// Table yields what works and what is refused.
func Table() iter.Seq[Support] {
	return func(yield func(Support) bool) {
		for _, c := range forms() {
			for _, pods := range inet.Families {
				for _, under := range inet.Families {
					if !yield(support(c, pods, under)) {
						return
					}
				}
			}
		}
	}
}

// forms are the encapsulations routed, with a device for each peer, and on a bridge.
func forms() []Config {
	var routed, single, bridged, more []Config
	for _, k := range kinds {
		routed = append(append(routed, Config{Encap: k.name}), k.forms...)
		single = append(single, Config{Encap: k.name, Mode: PointToPoint})
		bridged = append(bridged, Config{Encap: k.name, L2: true, Bridge: "cni0"})
		for _, c := range k.forms {
			c.L2, c.Bridge = true, "cni0"
			more = append(more, c)
		}
	}
	return slices.Concat(routed, single, bridged, more)
}

func support(c Config, pods, under inet.Family) Support {
	s := Support{Config: c, Pods: pods, Underlay: under}
	e, err := c.Encapsulation()
	if err != nil {
		s.Refused = err.Error()
		return s
	}
	d, err := e.driver(&Options{Network: "pods"})
	if err != nil {
		s.Refused = err.Error()
		return s
	}
	s.Overhead = d.overhead(under)
	if _, plain := e.(Direct); plain && pods == inet.IPv6 && under == inet.IPv4 {
		s.Refused = "needs an IPv6 endpoint"
	}
	return s
}

//go:build linux

package overlay

import "fmt"

// Combination is one way to set an encapsulation up.
type Combination struct {
	Encap             string
	GPE, GBP          bool
	L2, Direct, Point bool
}

func supported(c Combination) error {
	if c.GPE && (c.GBP || c.L2) {
		return fmt.Errorf("gpe together with gbp or l2: VXLAN-GPE carries neither a group policy nor, here, Ethernet")
	}
	if c.L2 && c.Direct {
		return fmt.Errorf("directRouting together with l2: there are no routes")
	}
	return nil
}

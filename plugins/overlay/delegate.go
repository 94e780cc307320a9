package overlay

import (
	"encoding/json"
	"net/netip"

	"github.com/cniblocks/cniblocks/attach"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/lazyjson"
	"github.com/cniblocks/cniblocks/ipam"
	"github.com/cniblocks/cniblocks/peer"
)

// delegateConf is the configuration of the delegate: what it states itself, what every delegate is handed down, and what
// follows from the overlay where it states nothing. Without a view, for DEL, nothing follows.
func (c *conf) delegateConf(r *cni.Request, v *view, mtu int) (json.RawMessage, error) {
	var d lazyjson.Object
	if err := lazyjson.Unmarshal(c.Delegate, &d); err != nil {
		return nil, cni.Errorf(cni.ErrConfig, `netconf: key "delegate": %w`, err)
	}
	if err := r.HandDown(d); err != nil {
		return nil, err
	}
	var kind string
	if err := lazyjson.Unmarshal(d["type"], &kind); err != nil {
		return nil, err
	}
	var err error
	kind = r.Kind(kind)
	if carries(kind) {
		if c.least { // its own ipMasq was not read
			var outer lazyjson.Object
			if err := lazyjson.Unmarshal(r.Config, &outer); err != nil {
				return nil, err
			}
			if d["ipMasq"] == nil && outer["ipMasq"] != nil {
				d["ipMasq"] = outer["ipMasq"]
			}
		}
		err = c.fillCarrier(r, d, v, mtu)
	} else {
		err = c.fillLast(r, d, kind, v, mtu)
	}
	if err != nil {
		return nil, err
	}
	return lazyjson.Marshal(d)
}

// fillCarrier hands the masquerading down to the last plugin of ours in the chain: one rule, with the exceptions of all.
func (c *conf) fillCarrier(r *cni.Request, d lazyjson.Object, v *view, mtu int) error {
	var inner conf
	if err := lazyjson.Unmarshal(c.Delegate, &inner); err != nil {
		return cni.Errorf(cni.ErrConfig, `netconf: key "delegate": %w`, err)
	}
	except := append(inner.IPMasqExcept, c.IPMasqExcept...)
	if v != nil {
		except = append(except, v.prefixes...)
	}
	for _, f := range []error{
		d.Fill("ipMasq", c.IPMasq), d.Put("ipMasqExcept", append([]netip.Prefix{}, except...)), d.Fill("stateDir", c.StateDir),
	} {
		if f != nil {
			return f
		}
	}
	if c.IPMasqBackend != "" {
		if err := d.Fill("ipMasqBackend", c.IPMasqBackend); err != nil {
			return err
		}
	}
	if mtu == 0 {
		return nil
	}
	return d.Fill("maxMTU", mtu)
}

func (c *conf) fillLast(r *cni.Request, d lazyjson.Object, kind string, v *view, mtu int) error {
	if string(d["ipMasq"]) == "true" && v != nil {
		r.Warn(`netconf: key "delegate.ipMasq" is true and counts as false: the rule of the %s plugin does it, and spares the network`, r.Type)
	}
	if err := d.Put("ipMasq", false); err != nil {
		return err
	}
	if attach.Masquerades(kind) {
		if err := d.Put("ipMasqElsewhere", true); err != nil { // else its GC takes the rule for what is left of a former ipMasq
			return err
		}
	}
	if kind == "bridge" && !c.L2 {
		if err := d.Fill("isGateway", true); err != nil {
			return err
		}
	}
	if mtu != 0 {
		if err := d.Fill("mtu", mtu); err != nil {
			return err
		}
	}
	return c.fillIPAM(r, d, v)
}

// fillIPAM makes the IPAM host-local, on this peer's ranges, with routes to the whole network.
func (c *conf) fillIPAM(r *cni.Request, d lazyjson.Object, v *view) error {
	var i lazyjson.Object
	if d["ipam"] != nil {
		if err := lazyjson.Unmarshal(d["ipam"], &i); err != nil {
			return cni.Errorf(cni.ErrConfig, `netconf: key "delegate.ipam": %w`, err)
		}
	}
	if i == nil {
		i = lazyjson.Object{}
	}
	if err := i.Fill("type", hostLocal); err != nil {
		return err
	}
	if v == nil {
		v = c.now
	}
	var kind string
	_ = lazyjson.Unmarshal(i["type"], &kind) // the delegate says what is wrong
	if v != nil && r.Kind(kind) == hostLocal {
		if i["subnet"] == nil && i["ranges"] == nil {
			ranges, err := c.pools(v)
			if err != nil {
				return err
			}
			if err := i.Put("ranges", ranges); err != nil {
				return err
			}
		}
		routes := []cni.Route{}
		for _, p := range v.prefixes {
			if !c.L2 && has(v.self.Pods, p.Addr().Is4()) {
				routes = append(routes, cni.Route{Dst: p})
			}
		}
		if err := i.Fill("routes", routes); err != nil {
			return err
		}
	}
	return d.Put("ipam", i)
}

func has(ranges []netip.Prefix, is4 bool) bool {
	for _, r := range ranges {
		if r.Addr().Is4() == is4 {
			return true
		}
	}
	return false
}

// pools are the ranges to lease from, one pool for each family. The node's own address in the overlay, the first of an
// IPv4 range or the last of an IPv6 one, and the gateway, the one after the first, are not leased. With l2 one subnet spans all machines: each leases from its part.
func (c *conf) pools(v *view) ([]ipam.Pool, error) {
	own, err := v.ranges()
	if err != nil {
		return nil, err
	}
	pools := []ipam.Pool{}
	for _, f := range inet.Families {
		var pool ipam.Pool
		for _, p := range own {
			if inet.FamilyOf(p.Addr()) != f {
				continue
			}
			r, err := c.share(p, v.prefixes)
			if err != nil {
				return nil, err
			}
			pool = append(pool, r)
		}
		if len(pool) > 0 {
			pools = append(pools, pool)
		}
	}
	return pools, nil
}

// share is what of a range is leased. With l2 it is this machine's part of a subnet that spans all machines, with a
// gateway of its own.
func (c *conf) share(p netip.Prefix, network []netip.Prefix) (ipam.Range, error) {
	own, err := ipam.Range{Subnet: p}.Canonical()
	if err != nil {
		return own, cni.Errorf(cni.ErrConfig, "peers: %w", err)
	}
	if own.End == peer.NodeAddr(p) && own.Start.Less(own.End) {
		own.End = own.End.Prev()
	}
	if !c.L2 {
		return own, nil
	}
	for _, n := range network {
		if n.Bits() < p.Bits() && n.Contains(p.Addr()) {
			return ipam.Range{Subnet: n, Start: own.Start, End: own.End, Gateway: own.Start}, nil
		}
	}
	return own, cni.Errorf(cni.ErrConfig, `peers: with "l2" the range %s must be a part of "network" (%v), which is the subnet that spans all machines`, p, network)
}

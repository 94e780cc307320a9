package overlay

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/attach"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/base/lazyjson"
	"github.com/cniblocks/cniblocks/internal/base/nearest"
	"github.com/cniblocks/cniblocks/overlay"
)

// conf is the netconf of overlay and of host-gw. It is large since it is data, with a field for each key.
type conf struct {
	overlay.Config // the encapsulation
	encap          overlay.Encap

	PeersFile string          `json:"peersFile"`
	Peers     json.RawMessage `json:"peers"`
	Prefixes  json.RawMessage `json:"network"`
	Node      string          `json:"node"`
	Delegate  json.RawMessage `json:"delegate"`
	StateDir  string          `json:"stateDir"`
	DataDir   string          `json:"dataDir"` // where what survives a reboot is: the WireGuard key

	MTU      int    `json:"mtu"`
	MaxMTU   int    `json:"maxMTU"` // what an outer plugin leaves
	Underlay string `json:"underlay"`
	Table    uint32 `json:"table"`
	Metric   uint32 `json:"metric"`
	Device   string `json:"device"`

	attach.Masq

	now *view // for DEL and GC: what the delegate may take for configured; nil: not known

	least bool // the configuration is broken, and only the delegate was read
}

// The types of this package's plugins in a netconf.
const (
	typeOverlay = "overlay"
	typeHostGW  = "host-gw"
	hostLocal   = "host-local"
)

func carries(typ string) bool { return typ == typeOverlay || typ == typeHostGW }

func load(r *cni.Request) (*conf, error) {
	c := &conf{}
	err := r.Decode(c)
	if r.Verb == cni.DEL || r.Verb == cni.GC {
		return c, c.loadLeast(r, err)
	}
	if err != nil {
		return nil, err
	}
	if r.Type == typeHostGW {
		if c.Encap != "" {
			return nil, cni.Errorf(cni.ErrConfig, `netconf: key "encap" is %q, and host-gw encapsulates nothing; want "type": "overlay", or no "encap"`, c.Encap)
		}
		c.Encap = typeHostGW
	}
	for _, check := range []func(*cni.Request) error{c.checkEncap, c.checkKeys, c.checkDelegate, c.checkTable} {
		if err := check(r); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// loadLeast is for what was added and must go, whatever the configuration became: a delegate is enough.
func (c *conf) loadLeast(r *cni.Request, wrong error) error {
	if wrong != nil {
		var read conf
		if r.DecodeLeast(&read) != nil {
			return wrong
		}
		r.Warn("%v", wrong)
		*c = conf{Delegate: read.Delegate, least: true}
	}
	if r.Type == typeHostGW {
		c.Encap = typeHostGW
	}
	return c.checkDelegate(r)
}

func (c *conf) checkEncap(r *cni.Request) error {
	tunnels := slices.DeleteFunc(overlay.Names(), func(name string) bool { return name == typeHostGW })
	if r.Type == typeHostGW || slices.Contains(tunnels, c.Encap) {
		return nil
	}
	hint := ""
	if near, ok := nearest.Of(c.Encap, slices.Values(tunnels)); ok {
		hint = ", " + near + " perhaps"
	}
	return cni.Errorf(cni.ErrConfig, `netconf: key "encap" is %q; want one of %s%s`, c.Encap, strings.Join(tunnels, ", "), hint)
}

func (c *conf) checkKeys(*cni.Request) error {
	bad := func(format string, a ...any) error { return cni.Errorf(cni.ErrConfig, "netconf: "+format, a...) }
	switch {
	case c.PeersFile != "" && c.Peers != nil:
		return bad(`keys "peersFile" and "peers" are both there; want one of them`)
	case c.MTU < 0 || c.MTU > 65535:
		return bad(`key "mtu" is %d; want 68 to 65535, or 0 for what the path allows`, c.MTU)
	case c.VNI > 1<<24-1:
		return bad(`key "vni" is %d; want at most %d: it has 24 bits`, c.VNI, 1<<24-1)
	case c.Underlay != "" && c.Underlay != "ipv4" && c.Underlay != "ipv6":
		return bad(`key "underlay" is %q; want "ipv4" or "ipv6", or leave it out`, c.Underlay)
	}
	return c.Masq.Validate()
}

func (c *conf) checkTable(*cni.Request) (err error) {
	c.encap, err = c.encapsulation()
	return err
}

// encapsulation is the type that the keys describe, or why the table of encapsulations refuses them.
func (c *conf) encapsulation() (overlay.Encap, error) {
	var d struct {
		PortIsolation bool `json:"portIsolation"`
	}
	if err := lazyjson.Unmarshal(c.Delegate, &d); err != nil {
		return nil, cni.Errorf(cni.ErrConfig, `netconf: key "delegate": %w`, err)
	}
	o := c.Config
	o.Bridge, o.PortIsolation, o.DataDir = c.delegateBridge(), d.PortIsolation, c.DataDir
	e, err := o.Encapsulation()
	var key *overlay.UnsupportedKey
	switch {
	case errors.As(err, &key):
		return nil, cni.Errorf(cni.ErrUnsupportedField, "netconf: %w", err)
	case err != nil:
		return nil, cni.Errorf(cni.ErrConfig, "netconf: %w", err)
	}
	return e, nil
}

// checkDelegate refuses a chain of delegation in which one of our types comes twice: both would be of the same network,
// since the name is handed down, and each would take the other's routes for its own.
func (c *conf) checkDelegate(r *cni.Request) error {
	seen := []string{r.Type}
	for raw := c.Delegate; ; {
		var d struct {
			Type     string          `json:"type"`
			Delegate json.RawMessage `json:"delegate"`
		}
		if len(raw) == 0 || lazyjson.Unmarshal(raw, &d) != nil || d.Type == "" {
			return cni.Errorf(cni.ErrConfig, `netconf: key "delegate" of %s has no "type"; want the plugin that attaches the pod, such as {"type": "bridge"}`, seen[len(seen)-1])
		}
		kind := r.Kind(d.Type)
		if slices.Contains(seen, kind) {
			return cni.Errorf(cni.ErrConfig, `netconf: key "delegate": %s meets itself for network %q in the chain of delegation %v; want another type, or another network`, d.Type, r.Network, append(seen, d.Type))
		}
		if !carries(kind) {
			return nil
		}
		seen = append(seen, kind)
		raw = d.Delegate
	}
}

func (c *conf) underlay() inet.Family {
	switch c.Underlay {
	case "ipv4":
		return inet.IPv4
	case "ipv6":
		return inet.IPv6
	}
	return 0
}

func (c *conf) delegateBridge() string {
	var d struct {
		Bridge string `json:"bridge"`
	}
	if lazyjson.Unmarshal(c.Delegate, &d) != nil || d.Bridge == "" {
		return "cni0"
	}
	return d.Bridge
}

func (c *conf) delegateType() string {
	var d struct {
		Type string `json:"type"`
	}
	_ = lazyjson.Unmarshal(c.Delegate, &d)
	return d.Type
}

// delegateHasIPAM reports whether the delegate states an IPAM of its own.
func (c *conf) delegateHasIPAM() bool {
	var d struct {
		IPAM *struct{} `json:"ipam"`
	}
	return lazyjson.Unmarshal(c.Delegate, &d) == nil && d.IPAM != nil
}

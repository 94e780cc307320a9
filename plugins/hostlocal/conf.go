package hostlocal

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/base/lazyjson"
	"github.com/cniblocks/cniblocks/ipam"
)

// conf is the netconf: every key of the reference's host-local, with its meaning.
type conf struct {
	IPAM *struct {
		ipam.Range             // subnet, rangeStart, rangeEnd, gateway: one more pool, before ranges
		Type       string      `json:"type"`
		Ranges     []ipam.Pool `json:"ranges"`
		Routes     []cni.Route `json:"routes"`
		DataDir    string      `json:"dataDir"`
		ResolvConf string      `json:"resolvConf"`
	} `json:"ipam"`
	Args struct {
		CNI struct {
			IPs []address `json:"ips"`
		} `json:"cni"`
	} `json:"args"`
	RuntimeConfig struct {
		IPRanges []ipam.Pool `json:"ipRanges"` // before all others
		IPs      []address   `json:"ips"`
	} `json:"runtimeConfig"`

	dataDir string
	pools   []ipam.Pool
	wanted  []netip.Addr
}

// address is an IP address that may have a prefix length, which does not count: some runtimes give one.
type address netip.Addr

func (a *address) UnmarshalText(b []byte) error {
	ip, err := netip.ParseAddr(string(b))
	if strings.Contains(string(b), "/") {
		var p netip.Prefix
		p, err = netip.ParsePrefix(string(b))
		ip = p.Addr()
	}
	if err != nil {
		return fmt.Errorf("key \"ips\": %q is no IP address", b)
	}
	*a = address(ip.Unmap())
	return nil
}

// load reads the configuration. DEL and GC need no ranges: what was added must go, whatever the configuration became.
func load(r *cni.Request) (*conf, error) {
	if r.Verb == cni.DEL || r.Verb == cni.GC {
		return loadLeast(r)
	}
	c := &conf{}
	if err := r.DecodeIPAM(c); err != nil {
		return nil, cmp.Or(wrongAddress(r.Config), err)
	}
	if c.IPAM == nil {
		return nil, cni.Errorf(cni.ErrConfig, `netconf: key "ipam" is missing; host-local wants its ranges there`)
	}
	c.dataDir = c.IPAM.DataDir
	pools := append([]ipam.Pool{}, c.RuntimeConfig.IPRanges...)
	if c.IPAM.Subnet.IsValid() {
		pools = append(pools, ipam.Pool{c.IPAM.Range})
	}
	pools = append(pools, c.IPAM.Ranges...)
	if len(pools) == 0 {
		return nil, cni.Errorf(cni.ErrConfig, `netconf: keys "ipam.subnet" and "ipam.ranges" are missing; host-local wants one of them, such as "subnet": "10.22.0.0/16"`)
	}
	var err error
	if c.pools, err = ipam.Canonical(pools...); err != nil {
		return nil, cni.Errorf(cni.ErrConfig, "netconf: key \"ipam\": %w", err)
	}
	if err := c.oldVersions(r.Version); err != nil {
		return nil, err
	}
	return c, c.readWanted(r)
}

// wrongAddress names the key of a range that is no address, which package json does not.
func wrongAddress(config json.RawMessage) error {
	type texts = map[string]any
	var c struct {
		IPAM          json.RawMessage
		RuntimeConfig struct{ IPRanges [][]texts }
	}
	var inside struct{ Ranges [][]texts }
	var first texts
	_, _, _ = lazyjson.Unmarshal(config, &c), lazyjson.Unmarshal(c.IPAM, &inside), lazyjson.Unmarshal(c.IPAM, &first)
	at := map[string][][]texts{"ipam": {{first}}, "ipam.ranges": inside.Ranges, "runtimeConfig.ipRanges": c.RuntimeConfig.IPRanges}
	for _, path := range slices.Sorted(maps.Keys(at)) {
		for _, r := range slices.Concat(at[path]...) {
			for key, want := range map[string]string{"subnet": "a prefix such as 10.22.0.0/16", "rangeStart": "an IP address", "rangeEnd": "an IP address", "gateway": "an IP address"} {
				text, ok := r[key].(string)
				_, err := netip.ParseAddr(text)
				if key == "subnet" {
					_, err = netip.ParsePrefix(text)
				}
				if ok && text != "" && err != nil {
					return cni.Errorf(cni.ErrConfig, "netconf: key %q is %q; want %s", path+"."+key, text, want)
				}
			}
		}
	}
	return nil
}

func loadLeast(r *cni.Request) (*conf, error) {
	var least struct {
		IPAM struct {
			DataDir string `json:"dataDir"`
		} `json:"ipam"`
	}
	if err := lazyjson.Unmarshal(r.Config, &least); err != nil {
		return nil, cni.Errorf(cni.ErrConfig, "netconf: %w", err)
	}
	return &conf{dataDir: least.IPAM.DataDir}, nil
}

// oldVersions refuses what results before CNI 0.3.0 cannot say: more than one address of a family.
func (c *conf) oldVersions(version string) error {
	n := map[bool]int{}
	for _, p := range c.pools {
		n[p[0].Subnet.Addr().Is4()]++
	}
	if (version == "0.1.0" || version == "0.2.0") && (n[true] > 1 || n[false] > 1) {
		return &cni.Error{Code: cni.ErrConfig, Msg: "CNI version " + version + " does not support more than 1 address per family", // as the reference says it
			Details: `netconf: key "cniVersion": want 0.3.0 or later, or fewer ranges`}
	}
	return nil
}

// readWanted collects the addresses that are asked for: CNI_ARGS IP, args.cni.ips, runtimeConfig.ips.
func (c *conf) readWanted(r *cni.Request) error {
	if err := r.CheckArgs(); err != nil {
		return err
	}
	if s, ok := r.Arg("IP"); ok && s != "" {
		var a address
		if err := a.UnmarshalText([]byte(s)); err != nil {
			return cni.Errorf(cni.ErrEnvironment, "CNI_ARGS: IP=%q is no IP address", s)
		}
		c.wanted = append(c.wanted, netip.Addr(a))
	}
	for _, list := range [][]address{c.Args.CNI.IPs, c.RuntimeConfig.IPs} {
		for _, a := range list {
			c.wanted = append(c.wanted, netip.Addr(a))
		}
	}
	return nil
}

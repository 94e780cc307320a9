package flannel

import (
	"cmp"
	"encoding/json"
	"maps"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/attach"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/base/lazyjson"
	"github.com/cniblocks/cniblocks/peer/flannel"
)

// conf is the netconf of flannel's plugin.
type conf struct {
	SubnetFile string          `json:"subnetFile"`
	DataDir    string          `json:"dataDir"`
	IPAM       lazyjson.Object `json:"ipam"`     // of the delegate, completed
	Delegate   lazyjson.Object `json:"delegate"` // what it states itself wins
}

// As flannel's plugin has them.
const (
	defaultDataDir = "/var/lib/cni/flannel"
	bridge         = "bridge"
	hostLocal      = "host-local"
)

func load(r *cni.Request) (*conf, error) {
	c := &conf{}
	err := r.Decode(c)
	if err == nil {
		err = c.check(r)
	}
	if err != nil {
		if r.Verb != cni.DEL && r.Verb != cni.GC {
			return nil, err
		}
		r.Warn("%v", err) // what was added must go, whatever the configuration became
		c = least(r)
	}
	c.SubnetFile = cmp.Or(c.SubnetFile, flannel.SubnetEnvPath)
	c.DataDir = cmp.Or(c.DataDir, defaultDataDir)
	return c, nil
}

func (c *conf) check(r *cni.Request) error {
	bad := func(format string, a ...any) error { return cni.Errorf(cni.ErrConfig, "netconf: "+format, a...) }
	for _, key := range []string{"name", "ipam"} {
		if v := c.Delegate[key]; v != nil {
			at := map[string]string{"name": `that of the network is handed down`, "ipam": `state "ipam" beside "delegate": it is handed down with this node's range`}
			return bad(`key "delegate.%s" is %s; want it removed: %s`, key, v, at[key])
		}
	}
	if v := c.Delegate["type"]; v != nil {
		switch r.Kind(c.Delegate.Text("type")) {
		case "":
			return bad(`key "delegate.type" is %s; want the name of the plugin that attaches the pod, or none for "bridge"`, v)
		case "flannel":
			return bad(`key "delegate.type" is %s: it would call itself; want the plugin that attaches the pod, or none for "bridge"`, v)
		}
	}
	if v := c.IPAM["type"]; v != nil && c.IPAM.Text("type") == "" {
		return bad(`key "ipam.type" is %s; want the name of an IPAM plugin, or none for "host-local"`, v)
	}
	_, err := c.routes(nil)
	return err
}

// least is what can be read of a broken configuration.
func least(r *cni.Request) *conf {
	c := &conf{}
	if r.DecodeLeast(c) != nil {
		return c
	}
	for _, key := range []string{"name", "ipam"} {
		delete(c.Delegate, key)
	}
	if kind := r.Kind(c.Delegate.Text("type")); kind == "flannel" || kind == "" {
		delete(c.Delegate, "type")
	}
	if c.IPAM.Text("type") == "" {
		delete(c.IPAM, "type")
	}
	if _, err := c.routes(nil); err != nil {
		delete(c.IPAM, "routes")
	}
	return c
}

// render is the configuration of the delegate: what it states itself, and what follows from subnet.env where it states
// nothing. Without the file nothing follows.
func (c *conf) render(r *cni.Request, env *flannel.SubnetEnv) (lazyjson.Object, error) {
	d := lazyjson.Object{}
	maps.Copy(d, c.Delegate)
	errs := []error{d.Fill("type", bridge)}
	kind := r.Kind(d.Text("type"))
	if env != nil {
		errs = append(errs, d.Fill("mtu", env.MTU), d.Fill("ipMasq", !env.IPMasq))
		if kind == bridge {
			errs = append(errs, d.Fill("isGateway", true))
		}
		if attach.Masquerades(kind) {
			if string(d["ipMasq"]) == "false" { // what there is under the network's name is the node agent's
				errs = append(errs, d.Fill("ipMasqElsewhere", true))
			} else { // pods see each other's own addresses
				errs = append(errs, d.Fill("ipMasqExcept", env.Networks))
			}
		}
	}
	ipam, err := c.ipam(env)
	errs = append(errs, err, d.Put("ipam", ipam))
	return d, cmp.Or(errs...)
}

// ipam is the configuration of the delegate's IPAM plugin: this node's ranges, and routes to the whole network.
func (c *conf) ipam(env *flannel.SubnetEnv) (lazyjson.Object, error) {
	i := lazyjson.Object{}
	maps.Copy(i, c.IPAM)
	err := i.Fill("type", hostLocal)
	if env == nil || err != nil {
		return i, err
	}
	var ranges [][]map[string]netip.Prefix
	for _, s := range env.Subnets {
		ranges = append(ranges, []map[string]netip.Prefix{{"subnet": s}})
	}
	routes, err := c.routes(env.Networks)
	return i, cmp.Or(err, i.Put("ranges", ranges), i.Put("routes", routes))
}

// routes are those that the configuration states, and those to the networks.
func (c *conf) routes(networks []netip.Prefix) ([]cni.Route, error) {
	var routes []cni.Route
	if v := c.IPAM["routes"]; v != nil {
		if err := lazyjson.Unmarshal(v, &routes); err != nil {
			return nil, cni.Errorf(cni.ErrConfig, `netconf: key "ipam.routes": %w`, err)
		}
	}
	for _, n := range networks {
		if !slices.ContainsFunc(routes, func(r cni.Route) bool { return r.Dst == n }) {
			routes = append(routes, cni.Route{Dst: n})
		}
	}
	return routes, nil
}

// handDown adds to a delegate's configuration what every delegate gets of the request's own.
func handDown(r *cni.Request, d lazyjson.Object) (json.RawMessage, error) {
	if err := r.HandDown(d); err != nil {
		return nil, err
	}
	return lazyjson.Marshal(d)
}

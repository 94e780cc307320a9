//go:build linux

package scratch

import (
	"encoding/json"
	"maps"
)

// NetworkName is the name of every network that is measured.
const NetworkName = "bench"

// Network is what a configuration says. The zero value is a bridge network of CNI 1.0.0 without addresses.
type Network struct {
	Type       string // bridge if empty; any other is an entry that delegates to bridge
	CNIVersion string // 1.0.0 if empty
	Bridge     string // cb0 if empty
	Subnets    []string
	IPMasq     bool
	Backend    string // of ipMasq; the plugin's default if empty
	L2         bool   // no gateway, no default route
	Keys       map[string]any
}

// Plugin is the type with its default.
func (n Network) Plugin() string { return or(n.Type, "bridge") }

// BridgeName is the name of the bridge with its default.
func (n Network) BridgeName() string { return or(n.Bridge, "cb0") }

// Conf is the netconf, with leases in that directory, and with further keys where given.
func (n Network) Conf(dataDir string, more map[string]any) []byte {
	var ranges [][]map[string]string
	for _, subnet := range n.Subnets {
		ranges = append(ranges, []map[string]string{{"subnet": subnet}})
	}
	bridge := map[string]any{
		"type": "bridge", "bridge": n.BridgeName(), "isGateway": !n.L2, "isDefaultGateway": !n.L2,
		"ipam": map[string]any{"type": "host-local", "ranges": ranges, "dataDir": dataDir},
	}
	if n.Backend != "" {
		bridge["ipMasqBackend"] = n.Backend
	}
	conf := bridge
	if n.Plugin() != "bridge" {
		conf = map[string]any{"type": n.Type, "delegate": bridge}
	}
	if n.IPMasq {
		conf["ipMasq"] = true
	}
	conf["cniVersion"], conf["name"] = or(n.CNIVersion, "1.0.0"), NetworkName
	maps.Copy(conf, n.Keys)
	maps.Copy(conf, more)
	b, err := json.Marshal(conf)
	if err != nil {
		panic(err) // there are only maps, strings and numbers in it
	}
	return b
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

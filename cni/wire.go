package cni

import (
	"encoding/json"
	"strconv"
	"strings"
)

// object is a JSON object that is written key by key: package json would prepare the encoders of whole types first, which
// in a process that has just begun takes longer than the writing.
type object []byte

// key begins the next member.
func (o *object) key(key string) {
	*o = append(*o, "{,"[min(len(*o), 1)])
	*o = append(strconv.AppendQuote(*o, key), ':')
}

// str writes a string that is not empty.
func (o *object) str(key, s string) {
	if s != "" {
		o.raw(key, quoted(s))
	}
}

func quoted(s string) []byte {
	if !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c > '~' || strings.ContainsRune(`"\<>&`, c) }) {
		return []byte(`"` + s + `"`) // as it stands, without all that package json prepares
	}
	b, _ := json.Marshal(s) // of a string it never fails
	return b
}

// number writes one that is not 0.
func (o *object) number(key string, n int) {
	if n != 0 {
		o.key(key)
		*o = strconv.AppendInt(*o, int64(n), 10)
	}
}

// raw writes what is JSON already.
func (o *object) raw(key string, b []byte) {
	o.key(key)
	*o = append(*o, b...)
}

// end is the whole object.
func (o object) end() []byte {
	if len(o) == 0 {
		return []byte("{}")
	}
	return append(o, '}')
}

// wireList writes a list that is not empty, an object for each element.
func wireList[T any](o *object, key string, list []T, one func(T) []byte) {
	if len(list) == 0 {
		return
	}
	b := []byte{'['}
	for i, v := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, one(v)...)
	}
	o.raw(key, append(b, ']'))
}

// wire is the form of 1.0.0 and 1.1.0 (specification, section 5).
func (r *Result) wire(version string) ([]byte, error) {
	var o object
	o.str("cniVersion", version)
	wireList(&o, "interfaces", r.Interfaces, Interface.wire)
	wireList(&o, "ips", r.IPs, IP.wire)
	wireList(&o, "routes", r.Routes, Route.wire)
	if !empty(r.DNS) {
		b, err := json.Marshal(r.DNS)
		if err != nil {
			return nil, err
		}
		o.raw("dns", b)
	}
	return o.end(), nil
}

func (l Interface) wire() []byte {
	var o object
	o.raw("name", quoted(l.Name))
	o.str("mac", l.MAC)
	o.number("mtu", l.MTU)
	o.str("sandbox", l.Sandbox)
	o.str("socketPath", l.SocketPath)
	o.str("pciID", l.PciID)
	return o.end()
}

func (ip IP) wire() []byte {
	var o object
	if ip.Interface >= 0 {
		o.raw("interface", strconv.AppendInt(nil, int64(ip.Interface), 10))
	}
	o.str("address", ip.Address.String())
	if ip.Gateway.IsValid() {
		o.str("gateway", ip.Gateway.String())
	}
	return o.end()
}

func (t Route) wire() []byte {
	var o object
	o.str("dst", t.Dst.String())
	if t.GW.IsValid() {
		o.str("gw", t.GW.String())
	}
	o.number("mtu", t.MTU)
	o.number("advmss", t.AdvMSS)
	o.number("priority", t.Priority)
	o.number("table", t.Table)
	o.number("scope", t.Scope)
	return o.end()
}

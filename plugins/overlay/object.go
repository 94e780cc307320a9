package overlay

import (
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/ipam"
)

// object is a JSON object under construction. The values that every ADD puts into it are written without package json,
// which in a process that has just begun prepares itself longer for each type than the writing takes.
type object map[string]json.RawMessage

func (o object) put(key string, v any) error {
	switch v := v.(type) {
	case bool:
		o[key] = strconv.AppendBool(nil, v)
	case int:
		o[key] = strconv.AppendInt(nil, int64(v), 10)
	case []ipam.Pool:
		o[key] = listOf(v, poolJSON)
	case []cni.Route:
		o[key] = listOf(v, func(r cni.Route) json.RawMessage { return object{"dst": text(r.Dst)}.encode() })
	default:
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		o[key] = b
	}
	return nil
}

// fill puts a value where the administrator stated none.
func (o object) fill(key string, v any) error {
	if o[key] != nil {
		return nil
	}
	return o.put(key, v)
}

// encode is the object with its keys in order. Its values are JSON already.
func (o object) encode() json.RawMessage {
	b := []byte{'{'}
	for _, key := range slices.Sorted(maps.Keys(o)) {
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(append(append(b, quoted(key)...), ':'), o[key]...)
	}
	return append(b, '}')
}

func quoted(s string) []byte {
	odd := func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }
	if !strings.ContainsFunc(s, odd) {
		return []byte(`"` + s + `"`)
	}
	b, _ := json.Marshal(s) // a string cannot fail
	return b
}

// text is the JSON string of an address or prefix; nothing for the zero one.
func text[T interface {
	comparable
	AppendTo(b []byte) []byte
}](v T) json.RawMessage {
	var none T
	if v == none {
		return nil
	}
	return append(v.AppendTo([]byte{'"'}), '"')
}

func listOf[T any](all []T, one func(T) json.RawMessage) json.RawMessage {
	b := []byte{'['}
	for i, v := range all {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, one(v)...)
	}
	return append(b, ']')
}

func poolJSON(p ipam.Pool) json.RawMessage { return listOf(p, rangeJSON) }

func rangeJSON(r ipam.Range) json.RawMessage {
	o := object{"subnet": text(r.Subnet)}
	for key, a := range map[string]netip.Addr{"rangeStart": r.Start, "rangeEnd": r.End, "gateway": r.Gateway} {
		if a.IsValid() {
			o[key] = text(a)
		}
	}
	return o.encode()
}

package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/internal/base/lazyjson"
	"github.com/cniblocks/cniblocks/internal/base/nearest"
)

// common are the keys that every netconf may have (specification, section 1 and section 3, "Deriving").
var common = []string{"cniVersion", "cniVersions", "name", "type", "capabilities", "ipam", "dns", "args", "runtimeConfig",
	"prevResult", "disableCheck", "disableGC", "loadOnlyInlinedPlugins"}

// Decode reads the configuration into v, a pointer to a struct with json tags. A value of a wrong kind is an error that
// names the key; a key that v does not have is only a warning that names the nearest one that it has: other plugins
// ignore such keys too. Below args and runtimeConfig any key is welcome: they are meant for several plugins.
func (r *Request) Decode(v any) error {
	strange, err := decode(r.Config, v)
	if (strange.Outer || strange.Inner) && err == nil {
		r.warnUnknown("", r.Config, reflect.TypeOf(v).Elem(), common)
	}
	return err
}

// DecodeLeast is [Request.Decode] for a configuration that became wrong after the ADD: DEL and GC need little of it. Every
// key whose value can be read is read, by itself. It fails if the configuration is no object.
func (r *Request) DecodeLeast(v any) error {
	var keys map[string]json.RawMessage
	if err := lazyjson.Unmarshal(r.Config, &keys); err != nil {
		return decodeError(err)
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		one, err := lazyjson.Marshal(lazyjson.Object{key: keys[key]})
		if err == nil {
			_ = json.Unmarshal(one, v)
		}
	}
	return nil
}

// decode reports where there may be keys that v does not have.
func decode(config json.RawMessage, v any) (strange lazyjson.Strange, err error) {
	if strange, err = lazyjson.Keys(config, v, common...); err != nil {
		err = explain(err, config, reflect.TypeOf(v).Elem())
	}
	return strange, err
}

// DecodeIPAM is [Request.Decode] for an IPAM plugin: it receives the whole configuration of the plugin that called it, so
// that only what stands under "ipam" is its own to judge.
func (r *Request) DecodeIPAM(v any) error {
	if strange, err := decode(r.Config, v); err != nil || !strange.Inner {
		return err
	}
	var own struct {
		IPAM json.RawMessage `json:"ipam"`
	}
	if _, err := decode(r.Config, &own); err != nil {
		return err
	}
	known := map[string]reflect.Type{}
	fields(reflect.TypeOf(v).Elem(), known)
	if t := known["ipam"]; t != nil && own.IPAM != nil {
		r.warnUnknown("ipam", own.IPAM, t, nil)
	}
	return nil
}

func decodeError(err error) error {
	var kind *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &kind) && kind.Field == "":
		return Errorf(ErrConfig, "the netconf is a JSON %s; want an object", kind.Value)
	case errors.As(err, &kind):
		return Errorf(ErrConfig, "netconf: key %q is a JSON %s; want %s", kind.Field, kind.Value, words(kind.Type))
	case errors.As(err, &syntax):
		return Errorf(ErrDecode, "netconf: not JSON at byte %d: %w", syntax.Offset, err)
	}
	return Errorf(ErrConfig, "netconf: %w", err)
}

// explain adds the key to an error that a value's own parser returned, which encoding/json does not do.
func explain(err error, raw json.RawMessage, t reflect.Type) error {
	var kind *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	if errors.As(err, &kind) {
		kind.Field = keyOf(kind.Field, t)
		return decodeError(err)
	}
	if errors.As(err, &syntax) {
		return decodeError(err)
	}
	if key, value := blame(raw, t); key != "" {
		return Errorf(ErrConfig, "netconf: key %q is %s: %w", key, clip(string(value)), err)
	}
	return decodeError(err)
}

// keyOf is the path of a value as the configuration has it: package json names embedded structs too, which it has not.
func keyOf(path string, t reflect.Type) string {
	name, rest, more := strings.Cut(path, ".")
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return path
	}
	for i := range t.NumField() {
		if f := t.Field(i); f.Anonymous && f.Name == name && more && f.Tag.Get("json") == "" {
			return keyOf(rest, f.Type)
		}
	}
	known := map[string]reflect.Type{}
	fields(t, known)
	if of := known[name]; of != nil && more {
		return name + "." + keyOf(rest, of)
	}
	return path
}

// blame finds the innermost value that does not parse as its type by itself.
func blame(raw json.RawMessage, t reflect.Type) (key string, value json.RawMessage) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	type part struct {
		key string
		raw json.RawMessage
		t   reflect.Type
	}
	var parts []part
	switch t.Kind() {
	case reflect.Struct:
		var have lazyjson.Object
		known := map[string]reflect.Type{}
		fields(t, known)
		if lazyjson.Unmarshal(raw, &have) == nil {
			for k, v := range have {
				for name, of := range known {
					if strings.EqualFold(k, name) {
						parts = append(parts, part{k, v, of})
					}
				}
			}
		}
	case reflect.Slice:
		var list []json.RawMessage
		if lazyjson.Unmarshal(raw, &list) == nil {
			for _, v := range list {
				parts = append(parts, part{"", v, t.Elem()})
			}
		}
	}
	for _, p := range parts {
		if lazyjson.Unmarshal(p.raw, reflect.New(p.t).Interface()) == nil {
			continue
		}
		if inner, value := blame(p.raw, p.t); inner != "" {
			return join(p.key, inner), value
		}
		return p.key, p.raw
	}
	return "", nil
}

func words(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number"
	case reflect.String:
		return "a string"
	case reflect.Slice, reflect.Array:
		if t.Name() != "" || t.Elem().Kind() == reflect.Slice { // a type with a name, a pool of ranges, is itself in a list
			return "a list of lists"
		}
		return "a list"
	}
	return "an object"
}

// maxWarnings bounds what is said of unknown keys: who has not understood by then has the wrong file.
const maxWarnings = 20

func (r *Request) warnUnknown(at string, raw json.RawMessage, t reflect.Type, more []string) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()):
		return
	case t.Kind() == reflect.Slice && (t.Elem().Kind() == reflect.Struct || t.Elem().Kind() == reflect.Slice):
		var list []json.RawMessage
		if lazyjson.Unmarshal(raw, &list) == nil {
			for _, one := range list {
				r.warnUnknown(at, one, t.Elem(), nil)
			}
		}
		return
	case t.Kind() != reflect.Struct:
		return
	}
	var have lazyjson.Object
	if lazyjson.Unmarshal(raw, &have) != nil {
		return
	}
	known := map[string]reflect.Type{}
	fields(t, known)
	names := slices.Clone(more)
	for k := range known {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, key := range slices.Sorted(maps.Keys(have)) {
		value := have[key]
		if len(r.Warnings()) >= maxWarnings {
			return
		}
		i := slices.IndexFunc(names, func(n string) bool { return strings.EqualFold(n, key) })
		switch {
		case i >= 0 && (names[i] == "args" || names[i] == "runtimeConfig" || bytes.Equal(value, []byte("null"))):
		case i >= 0 && known[names[i]] != nil:
			r.warnUnknown(join(at, key), value, known[names[i]], nil)
		case i >= 0, strings.ContainsAny(key, "/."):
		default:
			if near, ok := nearest.Of(key, slices.Values(names)); ok {
				r.Warn("netconf: key %q is not known and ignored; did you mean %q?", join(at, clip(key)), near)
			} else {
				r.Warn("netconf: key %q is not known and ignored", join(at, clip(key)))
			}
		}
	}
}

func join(at, key string) string {
	if at == "" || key == "" {
		return at + key
	}
	return at + "." + key
}

// fields collects the JSON keys of a struct, those of embedded structs included.
func fields(t reflect.Type, into map[string]reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			e := f.Type
			if e.Kind() == reflect.Pointer {
				e = e.Elem()
			}
			fields(e, into)
		case name == "-" || !f.IsExported():
		case name == "":
			into[f.Name] = f.Type
		default:
			into[name] = f.Type
		}
	}
}

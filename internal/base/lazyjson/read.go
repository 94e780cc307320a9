package lazyjson

import (
	"encoding"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Unmarshal is json.Unmarshal.
func Unmarshal(data []byte, v any) error {
	_, err := Keys(data, v)
	return err
}

// Strange is where there may be keys that a struct has no field for.
type Strange struct {
	Outer bool // in the outermost object
	Inner bool // in one of those inside
}

// Keys is [Unmarshal], and reports where there are strange keys; those of more count as known in the outermost object.
func Keys(data []byte, v any, more ...string) (Strange, error) {
	p := reflect.ValueOf(v)
	if p.Kind() == reflect.Pointer && !p.IsNil() && json.Valid(data) {
		before := reflect.New(p.Type().Elem()).Elem()
		before.Set(p.Elem())
		var f filler
		if one, _ := value(space(data)); f.fill(one, p.Elem(), more) == nil {
			return f.strange, nil
		}
		p.Elem().Set(before)
	}
	return Strange{true, true}, json.Unmarshal(data, v)
}

// filler looks at the fields whose keys are there. What it is not made for is an error that says nothing: package json
// reads it then.
type filler struct {
	strange Strange
	depth   int // of objects around
}

var errFill = errors.New("not as expected")

// fill reads one value of valid JSON.
func (f *filler) fill(raw []byte, v reflect.Value, more []string) error {
	if raw[0] == 'n' {
		return json.Unmarshal(raw, v.Addr().Interface())
	}
	if !bare(v.Type()) {
		switch p := v.Addr().Interface().(type) {
		case json.Unmarshaler:
			return p.UnmarshalJSON(raw)
		case encoding.TextUnmarshaler:
			if s, ok := plain(raw); ok {
				return p.UnmarshalText([]byte(s))
			}
			return json.Unmarshal(raw, p)
		}
	}
	switch kind := v.Kind(); {
	case kind == reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		return f.fill(raw, v.Elem(), more)
	case kind == reflect.Struct && raw[0] == '{':
		return f.fillStruct(raw, v, more)
	case kind == reflect.Slice && raw[0] == '[' && v.Type().Elem().Kind() != reflect.Uint8:
		return f.fillSlice(raw, v)
	case kind == reflect.Map && raw[0] == '{' && v.Type().Key() == reflect.TypeFor[string]():
		return f.fillMap(raw, v)
	case kind == reflect.String:
		if s, ok := plain(raw); ok {
			v.SetString(s)
			return nil
		}
	case kind == reflect.Bool && (raw[0] == 't' || raw[0] == 'f'):
		v.SetBool(raw[0] == 't')
		return nil
	case v.CanInt():
		if n, err := strconv.ParseInt(string(raw), 10, v.Type().Bits()); err == nil {
			v.SetInt(n)
			return nil
		}
	case v.CanUint():
		if n, err := strconv.ParseUint(string(raw), 10, v.Type().Bits()); err == nil {
			v.SetUint(n)
			return nil
		}
	}
	return json.Unmarshal(raw, v.Addr().Interface())
}

// bare reports whether a type is one of the language's own without a name, which has no methods.
func bare(t reflect.Type) bool {
	kind := t.Kind()
	return (kind == reflect.String || kind == reflect.Slice || kind < reflect.Complex64) && t.PkgPath() == ""
}

func (f *filler) fillSlice(raw []byte, v reflect.Value) error {
	elements := slices.Collect(Elements(raw))
	v.Set(reflect.MakeSlice(v.Type(), len(elements), len(elements)))
	for i, one := range elements {
		if err := f.fill(one, v.Index(i), nil); err != nil {
			return err
		}
	}
	return nil
}

func (f *filler) fillMap(raw []byte, v reflect.Value) error {
	if v.IsNil() {
		v.Set(reflect.MakeMap(v.Type()))
	}
	f.depth++
	defer func() { f.depth-- }()
	for quoted, one := range Members(raw) {
		element := reflect.New(v.Type().Elem()).Elem()
		if err := f.fill(one, element, nil); err != nil {
			return err
		}
		v.SetMapIndex(reflect.ValueOf(Unquote(quoted)), element)
	}
	return nil
}

// fillStruct takes the keys of more for known.
func (f *filler) fillStruct(raw []byte, v reflect.Value, more []string) error {
	known := fieldsOf(v, nil)
	f.depth++
	defer func() { f.depth-- }()
	for quoted, one := range Members(raw) {
		key, ok := plain(quoted)
		if !ok {
			return errFill
		}
		i := slices.IndexFunc(known, func(k field) bool { return strings.EqualFold(k.name, key) })
		switch {
		case i < 0:
			f.strange.Inner = f.strange.Inner || f.depth > 1
			f.strange.Outer = f.strange.Outer || f.depth == 1 && !slices.Contains(more, key)
			continue
		case known[i].taken: // twice, or in two spellings
			return errFill
		}
		known[i].taken = true
		if err := f.fill(one, known[i].v, nil); err != nil {
			return err
		}
	}
	return nil
}

// field is one of a struct, or of a struct embedded in it, by its key.
type field struct {
	name  string
	v     reflect.Value
	taken bool
}

// fieldsOf adds the fields of a struct to a list, outer ones first.
func fieldsOf(v reflect.Value, list []field) []field {
	t := v.Type()
	var embedded []int
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct:
			embedded = append(embedded, i)
			continue
		case name == "-" || !f.IsExported():
			continue
		case name == "":
			name = f.Name
		}
		list = append(list, field{name: name, v: v.Field(i)})
	}
	for _, i := range embedded {
		list = fieldsOf(v.Field(i), list)
	}
	return list
}

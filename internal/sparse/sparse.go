// Package sparse reads JSON into structs of which most keys are absent, as configurations are. Package json prepares all
// fields of a struct, and all that is inside them, before it reads the first one, which in a process that has just begun
// takes longer than the reading.
package sparse

import (
	"encoding"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
)

// Unmarshal is json.Unmarshal, but of an object that is there twice under one key the last one counts alone.
func Unmarshal(data []byte, v any) error {
	_, err := Keys(data, v)
	return err
}

// Keys is [Unmarshal], and reports whether there may be a key that the struct has no field for; the keys of more count
// as known in the outermost object.
func Keys(data []byte, v any, more ...string) (strange bool, err error) {
	p := reflect.ValueOf(v)
	var f filler
	if p.Kind() == reflect.Pointer && !p.IsNil() && f.fill(data, p.Elem(), more) == nil {
		return f.strange, nil
	}
	return true, json.Unmarshal(data, v)
}

// filler looks at the fields whose keys are there. What it cannot read is an error that says nothing.
type filler struct{ strange bool }

var errFill = errors.New("not as expected")

func (f *filler) fill(raw json.RawMessage, v reflect.Value, more []string) error {
	p := v.Addr().Interface()
	_, own := p.(json.Unmarshaler)
	_, text := p.(encoding.TextUnmarshaler)
	switch kind := v.Kind(); {
	case own || text || string(raw) == "null":
	case kind == reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		return f.fill(raw, v.Elem(), more)
	case kind == reflect.Struct:
		return f.fillStruct(raw, v, more)
	case kind == reflect.Slice && v.Type().Elem().Kind() != reflect.Uint8:
		return f.fillSlice(raw, v)
	}
	return json.Unmarshal(raw, p)
}

func (f *filler) fillSlice(raw json.RawMessage, v reflect.Value) error {
	var have []json.RawMessage
	if json.Unmarshal(raw, &have) != nil {
		return errFill
	}
	v.Set(reflect.MakeSlice(v.Type(), len(have), len(have)))
	for i, one := range have {
		if err := f.fill(one, v.Index(i), nil); err != nil {
			return err
		}
	}
	return nil
}

// fillStruct takes the keys of more for known.
func (f *filler) fillStruct(raw json.RawMessage, v reflect.Value, more []string) error {
	var have map[string]json.RawMessage
	if json.Unmarshal(raw, &have) != nil {
		return errFill
	}
	taken := make(map[string]bool, len(have))
	for key, value := range have {
		name, field := fieldOf(v, key)
		if !field.IsValid() {
			f.strange = f.strange || !slices.Contains(more, key)
			continue
		}
		if taken[name] { // in two spellings, of which the last counts
			return errFill
		}
		taken[name] = true
		if err := f.fill(value, field, nil); err != nil {
			return err
		}
	}
	return nil
}

// fieldOf finds the field of a key, for which upper and lower case are the same, and its name. There is none if the Value
// is zero.
func fieldOf(v reflect.Value, key string) (string, reflect.Value) {
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
		if strings.EqualFold(name, key) {
			return name, v.Field(i)
		}
	}
	for _, i := range embedded {
		if name, field := fieldOf(v.Field(i), key); field.IsValid() {
			return name, field
		}
	}
	return "", reflect.Value{}
}

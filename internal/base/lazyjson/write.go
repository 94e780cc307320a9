package lazyjson

import (
	"encoding"
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Marshal is json.Marshal. What a MarshalJSON method returns, and a json.RawMessage, must be JSON; an IsZero method must have a
// value for its receiver.
func Marshal(v any) ([]byte, error) {
	if p := reflect.ValueOf(v); p.IsValid() {
		if b, err := write(nil, p); err == nil {
			return b, nil
		}
	}
	return json.Marshal(v)
}

// errWrite says nothing: package json writes it then, or tells what is wrong.
var errWrite = errors.New("not made for it")

func write(b []byte, v reflect.Value) ([]byte, error) {
	t, kind := v.Type(), v.Kind()
	switch {
	case kind == reflect.Pointer && v.IsNil():
		return append(b, "null"...), nil
	case kind == reflect.Interface:
		if v.IsNil() {
			return append(b, "null"...), nil
		}
		return write(b, v.Elem())
	case !bare(t):
		if v.CanAddr() {
			v = v.Addr()
		}
		switch m := v.Interface().(type) {
		case json.Marshaler:
			out, err := m.MarshalJSON()
			return append(b, compact(out)...), err
		case encoding.TextMarshaler:
			text, err := m.MarshalText()
			return writeString(b, string(text)), err
		}
		if v.Type() != t {
			v = v.Elem()
		}
	}
	switch {
	case kind == reflect.Pointer:
		return write(b, v.Elem())
	case kind == reflect.String:
		return writeString(b, v.String()), nil
	case kind == reflect.Bool:
		return strconv.AppendBool(b, v.Bool()), nil
	case v.CanInt():
		return strconv.AppendInt(b, v.Int(), 10), nil
	case v.CanUint():
		return strconv.AppendUint(b, v.Uint(), 10), nil
	case kind == reflect.Struct:
		return writeStruct(b, v)
	case kind == reflect.Slice && v.IsNil():
		return append(b, "null"...), nil
	case kind == reflect.Slice && t.Elem().Kind() != reflect.Uint8:
		return writeSlice(b, v)
	case kind == reflect.Map && t.Key() == reflect.TypeFor[string]():
		return writeMap(b, v)
	}
	return nil, errWrite
}

func writeSlice(b []byte, v reflect.Value) (_ []byte, err error) {
	b = append(b, '[')
	for i := range v.Len() {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = write(b, v.Index(i)); err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
}

func writeMap(b []byte, v reflect.Value) (_ []byte, err error) {
	if v.IsNil() {
		return append(b, "null"...), nil
	}
	values := map[string]reflect.Value{}
	for i := v.MapRange(); i.Next(); {
		values[i.Key().String()] = i.Value()
	}
	begin := byte('{')
	for _, key := range slices.Sorted(maps.Keys(values)) {
		b = append(writeString(append(b, begin), key), ':')
		if b, err = write(b, values[key]); err != nil {
			return nil, err
		}
		begin = ','
	}
	return end(b, begin), nil
}

func writeStruct(b []byte, v reflect.Value) (_ []byte, err error) {
	t := v.Type()
	begin := byte('{')
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Tag.Get("json") == "-" || !f.IsExported() && !f.Anonymous,
			options == "omitempty" && empty(v.Field(i)),
			options == "omitzero" && zero(v.Field(i)):
			continue
		case f.Anonymous || options != "" && options != "omitempty" && options != "omitzero":
			return nil, errWrite
		case name == "":
			name = f.Name
		}
		b = append(writeString(append(b, begin), name), ':')
		if b, err = write(b, v.Field(i)); err != nil {
			return nil, err
		}
		begin = ','
	}
	return end(b, begin), nil
}

// end closes an object whose next member would begin with that.
func end(b []byte, begin byte) []byte {
	if begin == '{' {
		b = append(b, begin)
	}
	return append(b, '}')
}

func empty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map, reflect.String, reflect.Array:
		return v.Len() == 0
	case reflect.Struct:
		return false
	}
	return v.IsZero()
}

func zero(v reflect.Value) bool {
	z, ok := v.Interface().(interface{ IsZero() bool })
	return v.IsZero() || ok && z.IsZero()
}

func writeString(b []byte, s string) []byte {
	if strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c > '~' || strings.ContainsRune(`"\<>&`, c) }) {
		odd, _ := json.Marshal(s) // of a string it never fails
		return append(b, odd...)
	}
	return append(append(append(b, '"'), s...), '"')
}

// compact is a value as package json writes it: without white space, and with no character that means something to HTML.
func compact(value []byte) []byte {
	if !slices.ContainsFunc(value, func(c byte) bool { return c <= ' ' || c > '~' || c == '<' || c == '>' || c == '&' }) {
		return value
	}
	b, _ := json.Marshal(json.RawMessage(value))
	return b
}

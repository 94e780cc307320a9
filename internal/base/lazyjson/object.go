package lazyjson

import "encoding/json"

// Object is a JSON object whose values are left as they are written.
type Object map[string]json.RawMessage

// Put sets a value.
func (o Object) Put(key string, v any) error {
	b, err := Marshal(v)
	if err == nil {
		o[key] = b
	}
	return err
}

// Fill sets a value where there is none.
func (o Object) Fill(key string, v any) error {
	if o[key] != nil {
		return nil
	}
	return o.Put(key, v)
}

// Text is a value that is a string, else "".
func (o Object) Text(key string) (s string) {
	if Unmarshal(o[key], &s) != nil {
		return ""
	}
	return s
}

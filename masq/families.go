package masq

import "fmt"

// Families are those that a configuration masquerades. In JSON true is both, "ipv4" and "ipv6" are one of them.
type Families struct{ V4, V6 bool }

// UnmarshalJSON reads true, false, "ipv4" or "ipv6".
func (f *Families) UnmarshalJSON(b []byte) error {
	switch string(b) {
	case "true":
		*f = Families{true, true}
	case "false", "null":
		*f = Families{}
	case `"ipv4"`:
		*f = Families{V4: true}
	case `"ipv6"`:
		*f = Families{V6: true}
	default:
		return fmt.Errorf(`key "ipMasq" is %s; want true, false, "ipv4" or "ipv6"`, b)
	}
	return nil
}

// MarshalJSON writes the same.
func (f Families) MarshalJSON() ([]byte, error) {
	switch f {
	case Families{true, true}:
		return []byte("true"), nil
	case Families{V4: true}:
		return []byte(`"ipv4"`), nil
	case Families{V6: true}:
		return []byte(`"ipv6"`), nil
	}
	return []byte("false"), nil
}

// Any reports whether there is a family.
func (f Families) Any() bool { return f.V4 || f.V6 }

// Has reports whether the family of an address is among them.
func (f Families) Has(is4 bool) bool { return is4 && f.V4 || !is4 && f.V6 }

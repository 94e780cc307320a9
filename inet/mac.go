package inet

import (
	"encoding/hex"
	"errors"
	"fmt"
)

// MAC is an Ethernet address. The zero value means that there is none, or that it is the kernel's choice.
type MAC [6]byte

// ErrGroup says that an Ethernet address is a group's or all zero, which no station has.
var ErrGroup = errors.New("it is a group or an all-zero address, which no interface can have")

// ParseMAC reads six octets in one of the forms 0a:58:0a:f4:01:02, 0a-58-0a-f4-01-02, 0a58.0af4.0102 and 0a580af40102. The
// all-zero and group addresses are [ErrGroup].
func ParseMAC(s string) (m MAC, err error) {
	width := map[int]int{17: 2, 14: 4, 12: 12}[len(s)] // digits between two separators
	digits := make([]byte, 0, 2*len(m))
	ok := width != 0
	for i := range len(s) {
		switch c := s[i]; {
		case i%(width+1) != width:
			digits = append(digits, c)
		case width == 2 && (c == ':' || c == '-') && c == s[2], width == 4 && c == '.':
		default:
			ok = false
		}
	}
	if ok {
		_, err = hex.Decode(m[:], digits)
	}
	switch {
	case !ok, err != nil:
		return MAC{}, fmt.Errorf("MAC address %q: want six octets such as 0a:58:0a:f4:01:02", s)
	case !m.Unicast():
		return MAC{}, fmt.Errorf("MAC address %q: %w", s, ErrGroup)
	}
	return m, nil
}

// Unicast reports whether a station can have the address: it is neither a group's nor all zero.
func (m MAC) Unicast() bool { return m != MAC{} && m[0]&1 == 0 }

// String is the canonical form, six lower-case octets with colons; the zero value is the empty string.
func (m MAC) String() string {
	if m == (MAC{}) {
		return ""
	}
	const digits = "0123456789abcdef"
	b := make([]byte, 0, 17)
	for i, o := range m {
		if i > 0 {
			b = append(b, ':')
		}
		b = append(b, digits[o>>4], digits[o&15])
	}
	return string(b)
}

// MarshalText is [MAC.String].
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText is [ParseMAC], where no text at all is the zero value.
func (m *MAC) UnmarshalText(text []byte) (err error) {
	if len(text) == 0 {
		*m = MAC{}
		return nil
	}
	*m, err = ParseMAC(string(text))
	return err
}

// Package mac reads and writes Ethernet addresses, as package net does, which a plugin is to start without.
package mac

const digits = "0123456789abcdef"

// Parse reads six octets, with colons, hyphens or nothing between them, or in three groups of four digits with dots.
func Parse(s string) (m [6]byte, ok bool) {
	group, sep := 2, byte(0)
	switch len(s) {
	case 17:
		sep = s[2]
		if sep != ':' && sep != '-' {
			return m, false
		}
	case 14:
		group, sep = 4, '.'
	case 12:
		group = 12
	default:
		return m, false
	}
	nibble := 0
	for i := range len(s) {
		if i%(group+1) == group {
			if s[i] != sep {
				return [6]byte{}, false
			}
			continue
		}
		v, ok := digit(s[i])
		if !ok {
			return [6]byte{}, false
		}
		m[nibble/2] = m[nibble/2]<<4 | v
		nibble++
	}
	return m, true
}

func digit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// String is six lower-case octets with colons.
func String(m [6]byte) string {
	b := make([]byte, 0, 17)
	for i, v := range m {
		if i > 0 {
			b = append(b, ':')
		}
		b = append(b, digits[v>>4], digits[v&15])
	}
	return string(b)
}

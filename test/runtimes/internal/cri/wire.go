package cri

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// message is a message of protocol buffers under construction. Fields of their type's zero value are left out, as
// proto3 has it (https://protobuf.dev/programming-guides/encoding/).
type message []byte

const (
	varint = 0
	fixed8 = 1
	bytes  = 2
	fixed4 = 5
)

func (m message) str(field int, s string) message {
	if s == "" {
		return m
	}
	m = binary.AppendUvarint(m, uint64(field)<<3|bytes)
	m = binary.AppendUvarint(m, uint64(len(s)))
	return append(m, s...)
}

// list appends the strings of a repeated field, empty ones included.
func (m message) list(field int, all []string) message {
	for _, s := range all {
		m = m.sub(field, message(s))
	}
	return m
}

// sub appends a message, also an empty one.
func (m message) sub(field int, s message) message {
	m = binary.AppendUvarint(m, uint64(field)<<3|bytes)
	m = binary.AppendUvarint(m, uint64(len(s)))
	return append(m, s...)
}

func (m message) num(field int, n uint64) message {
	if n == 0 {
		return m
	}
	m = binary.AppendUvarint(m, uint64(field)<<3|varint)
	return binary.AppendUvarint(m, n)
}

// fields are those of a received message, in its order.
type fields []field

type field struct {
	number int
	bytes  []byte // of a string, of bytes, of a message
	num    uint64
}

func parse(b []byte) (out fields, err error) {
	for len(b) > 0 {
		key, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errors.New("protocol buffers: broken key")
		}
		b = b[n:]
		f := field{number: int(key >> 3)}
		switch key & 7 {
		case varint:
			if f.num, n = binary.Uvarint(b); n <= 0 {
				return nil, errors.New("protocol buffers: broken number")
			}
			b = b[n:]
		case bytes:
			size, n := binary.Uvarint(b)
			if n <= 0 || size > uint64(len(b)-n) {
				return nil, errors.New("protocol buffers: broken length")
			}
			f.bytes, b = b[n:n+int(size)], b[n+int(size):]
		case fixed8, fixed4:
			size := map[uint64]int{fixed8: 8, fixed4: 4}[key&7]
			if len(b) < size {
				return nil, errors.New("protocol buffers: broken number")
			}
			b = b[size:]
		default:
			return nil, fmt.Errorf("protocol buffers: wire type %d", key&7)
		}
		out = append(out, f)
	}
	return out, nil
}

// all yields the values of a repeated field.
func (f fields) all(number int) (out [][]byte) {
	for _, x := range f {
		if x.number == number {
			out = append(out, x.bytes)
		}
	}
	return out
}

// str is a field's last value, as a string.
func (f fields) str(number int) string {
	if all := f.all(number); len(all) > 0 {
		return string(all[len(all)-1])
	}
	return ""
}

func (f fields) num(number int) (n uint64) {
	for _, x := range f {
		if x.number == number {
			n = x.num
		}
	}
	return n
}

// sub is a message within the message; an absent one is empty.
func (f fields) sub(number int) (fields, error) { return parse([]byte(f.str(number))) }

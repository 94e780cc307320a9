package lazyjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
)

var ends = []byte(",]} \n\t\r") // of a number or a word

// Members yields the keys of an object and their values as they are written.
func Members(object []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(k, v []byte) bool) {
		rest := space(object[1:])
		for rest[0] != '}' {
			key, after := value(rest)
			v, after := value(space(space(after)[1:])) // after the colon
			if !yield(key, v) {
				return
			}
			rest = comma(after)
		}
	}
}

// Elements yields the values of an array as they are written.
func Elements(array []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		rest := space(array[1:])
		for rest[0] != ']' {
			v, after := value(rest)
			if !yield(v) {
				return
			}
			rest = comma(after)
		}
	}
}

func comma(b []byte) []byte {
	if b = space(b); b[0] == ',' {
		b = space(b[1:])
	}
	return b
}

func space(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\n' || b[0] == '\t' || b[0] == '\r') {
		b = b[1:]
	}
	return b
}

// value cuts off the value that b begins with.
func value(b []byte) (v, rest []byte) {
	n, depth := 0, 0
	for {
		switch b[n] {
		case '"':
			n += quoted(b[n:])
		case '{', '[':
			depth++
			n++
		case '}', ']':
			depth--
			n++
		default: // a number or a word; below depth 0 also what stands between values
			n++
			for depth == 0 && n < len(b) && !bytes.ContainsRune(ends, rune(b[n])) {
				n++
			}
		}
		if depth == 0 {
			return b[:n], b[n:]
		}
	}
}

// quoted is the length of the string that b begins with.
func quoted(b []byte) int {
	for n := 1; ; n++ {
		switch b[n] {
		case '"':
			return n + 1
		case '\\':
			n++
		}
	}
}

// Index is where a key of an object stands among those that are known, or -1.
func Index(known []string, key []byte) int {
	for i, k := range known {
		if string(key[1:len(key)-1]) == k {
			return i
		}
	}
	if bytes.IndexByte(key, '\\') >= 0 {
		return slices.Index(known, Unquote(key))
	}
	return -1
}

// Unquote is what a JSON string says.
func Unquote(b []byte) string {
	s, ok := plain(b)
	if !ok {
		_ = json.Unmarshal(b, &s) // is valid
	}
	return s
}

// plain is a string of ASCII without escapes, which stands for itself.
func plain(raw []byte) (string, bool) {
	if raw[0] != '"' {
		return "", false
	}
	raw = raw[1 : len(raw)-1]
	return string(raw), !slices.ContainsFunc(raw, func(c byte) bool { return c == '\\' || c >= 0x80 })
}

// Kind is how an error names what a value is.
func Kind(v []byte) string {
	switch v[0] {
	case '"':
		return "a string"
	case '{':
		return "an object"
	case '[':
		return "a list"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}

// ErrEmpty says that there is nothing but space.
var ErrEmpty = errors.New("empty")

// Document returns a text that is JSON without a byte order mark and the space around it. The error tells where it is none.
func Document(data []byte) ([]byte, error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // RFC 8259, section 8.1: a parser may ignore it
	if json.Valid(data) {
		return bytes.TrimRight(space(data), " \n\t\r"), nil
	}
	if len(space(data)) == 0 {
		return nil, ErrEmpty
	}
	err := json.Unmarshal(data, new(json.RawMessage))
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	before := data[:min(int(syntax.Offset), len(data))]
	line := 1 + bytes.Count(before, []byte("\n"))
	column := len(before) - bytes.LastIndexByte(before, '\n') - 1
	return nil, fmt.Errorf("not JSON at line %d, column %d: %w", line, column, err)
}

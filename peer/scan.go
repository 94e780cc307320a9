package peer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
)

// What follows walks over JSON that [json.Valid] has approved, and over nothing else. It is here because encoding/json
// tells neither of unknown keys nor of repeated ones without a second pass over everything, and gives up the whole
// document for one bad value.

var ends = []byte(",]} \n\t\r") // of a number or a word

// members yields the keys of an object and their values as they are written.
func members(object []byte) iter.Seq2[[]byte, []byte] {
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

// elements yields the values of an array as they are written.
func elements(array []byte) iter.Seq[[]byte] {
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

// index is where a key of an object stands among those that are known, or -1.
func index(known []string, key []byte) int {
	for i, k := range known {
		if string(key[1:len(key)-1]) == k {
			return i
		}
	}
	if bytes.IndexByte(key, '\\') >= 0 {
		return slices.Index(known, unquote(key))
	}
	return -1
}

// unquote is what a JSON string says.
func unquote(b []byte) string {
	plain := true
	for _, c := range b {
		plain = plain && c != '\\' && c < 0x80
	}
	if plain {
		return string(b[1 : len(b)-1])
	}
	var s string
	_ = json.Unmarshal(b, &s) // is valid
	return s
}

// kind is how an error names what a value is.
func kind(v []byte) string {
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

// show is a value in an error.
func show(v []byte) string {
	if v[0] == '"' {
		return quote(unquote(v))
	}
	return cut(strings.Join(strings.Fields(string(v)), " "))
}

// valid returns the document without a byte order mark and space around it, or an error that tells where it is no JSON.
func valid(data []byte) ([]byte, error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // RFC 8259, section 8.1: a parser may ignore it
	if json.Valid(data) {
		return bytes.TrimRight(space(data), " \n\t\r"), nil
	}
	if len(space(data)) == 0 {
		return nil, fmt.Errorf("the document is empty: want %s", shape)
	}
	err := json.Unmarshal(data, new(json.RawMessage))
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) {
		return nil, fmt.Errorf("the document is not JSON: %w", err)
	}
	before := data[:min(int(syntax.Offset), len(data))]
	line := 1 + bytes.Count(before, []byte("\n"))
	column := len(before) - bytes.LastIndexByte(before, '\n') - 1
	return nil, fmt.Errorf("the document is not JSON at line %d, column %d: %w", line, column, err)
}

package flannel

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"unicode/utf8"

	"github.com/cniblocks/cniblocks/inet"
)

// reader takes values out of a document and keeps what is wrong with them.
type reader struct{ wrong []error }

func (r *reader) bad(format string, args ...any) {
	r.wrong = append(r.wrong, fmt.Errorf(format, args...))
}

func (r *reader) flag(key string, v []byte, unless bool) bool {
	if null(v) {
		return unless
	}
	var b bool
	if json.Unmarshal(v, &b) != nil {
		r.bad("%s %s is not true or false: write one of them without quotes", key, show(v))
	}
	return b
}

func (r *reader) number(key string, v []byte, most, unless uint64) uint64 {
	if null(v) {
		return unless
	}
	n, err := strconv.ParseUint(string(v), 10, 64)
	if err != nil || n > most {
		r.bad("%s %s is not a number from 0 to %d: write one without quotes", key, show(v), most)
		return unless
	}
	return n
}

func (r *reader) text(key string, v []byte) string {
	if null(v) {
		return ""
	}
	s, err := unquote(v)
	if err != nil {
		r.bad("%s %s is not a string: write it in quotes", key, show(v))
	}
	return s
}

// unquote reads a string, most of which hold nothing that has to be looked at.
func unquote(v []byte) (s string, err error) {
	if n := len(v); n >= 2 && v[0] == '"' && bytes.IndexByte(v, '\\') < 0 && utf8.Valid(v) {
		return string(v[1 : n-1]), nil
	}
	err = json.Unmarshal(v, &s)
	return s, err
}

func (r *reader) network(key string, v []byte, f inet.Family) netip.Prefix {
	s := r.text(key, v)
	if s == "" {
		return netip.Prefix{}
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || inet.FamilyOf(p.Addr()) != f {
		example := "10.244.0.0/16"
		if f == inet.IPv6 {
			example = "fd00:10:244::/48"
		}
		r.bad("%s %s is not a range of %s: write one such as %q", key, quote(s), f, example)
		return netip.Prefix{}
	}
	return p.Masked()
}

func (r *reader) addr(key string, v []byte, f inet.Family) netip.Addr {
	s := r.text(key, v)
	if s == "" {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(s)
	if err != nil || inet.FamilyOf(a) != f || a.Zone() != "" {
		r.bad("%s %s is not an address of %s: write the base of a range within the network, or leave it out", key, quote(s), f)
		return netip.Addr{}
	}
	if a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

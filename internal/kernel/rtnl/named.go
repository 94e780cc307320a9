//go:build linux

package rtnl

import "strconv"

// index is how the words about a request say which link it is about; [WithNames] makes a name of it.
func index(link int) string { return "#" + strconv.Itoa(link) }

// WithNames puts names in the place of the indexes of links, #3, in what this package says of requests and objects. name
// returns "" for a link that is not there.
func WithNames(text string, name func(index int) string) string {
	var out []byte
	for i := 0; i < len(text); i++ {
		n, end := 0, i+1
		for text[i] == '#' && (i == 0 || text[i-1] == ' ') && end < len(text) && text[end] >= '0' && text[end] <= '9' && n < 1<<32 {
			n = 10*n + int(text[end]-'0')
			end++
		}
		if end == i+1 {
			out = append(out, text[i])
			continue
		}
		s := name(n)
		if s == "" {
			s = strconv.Itoa(n) + " (gone)"
		}
		out = append(out, s...)
		i = end - 1
	}
	return string(out)
}

// named puts names into errors, with the lock held and no batch under way.
func (c *Conn) named(err error) error {
	switch e := err.(type) { //nolint:errorlint // what a batch returns is not wrapped yet
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			_ = c.named(one)
		}
	case *Error:
		e.Op = WithNames(e.Op, func(i int) (name string) {
			c.put(GetLinkIndex(i, func(l Link) { name = l.Name }))
			_ = c.flush() // one that is gone has no name
			return name
		})
	}
	return err
}

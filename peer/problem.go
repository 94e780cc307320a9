package peer

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Problem is one thing that is wrong with one peer, or with the network that it is in.
type Problem struct {
	Peer   string // which: `peer "a"`, `peers[3]` where the name is missing or taken, "" for the network itself
	Key    string // of the peers document
	Value  string // as written there, shortened if it is long; "" if there is none
	Reason string // names the other party where there are two
	Remedy string

	// Warning says that the peer is good all the same.
	Warning bool
}

// Error is all of it in one line.
func (p *Problem) Error() string {
	var b strings.Builder
	if p.Peer != "" {
		b.WriteString(p.Peer + ": ")
	}
	b.WriteString(p.Key)
	if p.Value != "" {
		b.WriteString(" " + p.Value)
	}
	return b.String() + " " + p.Reason + ": " + p.Remedy
}

// Problems are what is wrong with a list, in its order. They are an error as [errors.Join] makes it.
type Problems []*Problem

// Error has a line for each problem.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the problems one by one to [errors.As].
func (ps Problems) Unwrap() []error {
	errs := make([]error, len(ps))
	for i, p := range ps {
		errs[i] = p
	}
	return errs
}

// Err is nil if there are none, warnings included, else the Problems themselves.
func (ps Problems) Err() error {
	if len(ps) == 0 {
		return nil
	}
	return ps
}

// Split parts what costs a peer from what does not.
func (ps Problems) Split() (bad, warnings Problems) {
	for _, p := range ps {
		if p.Warning {
			warnings = append(warnings, p)
		} else {
			bad = append(bad, p)
		}
	}
	return bad, warnings
}

// problem is the shape of all of them: key, value, reason, remedy.
func problem(key, value, reason, remedy string, args ...any) *Problem {
	return &Problem{Key: key, Value: value, Reason: reason, Remedy: fmt.Sprintf(remedy, args...)}
}

// quote shows a string of a stranger: escaped, and cut where it is longer than anyone reads.
func quote(s string) string { return strconv.Quote(cut(s)) }

func cut(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	n := most
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "..."
}

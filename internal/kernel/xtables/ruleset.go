package xtables

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Ruleset is one table.
type Ruleset map[string]Chain

// Jumps are the rules of a chain that jump to another.
func (rs Ruleset) Jumps(from, to string) (out []Rule) {
	for _, r := range rs[from].Rules {
		if r.Target == to {
			out = append(out, r)
		}
	}
	return out
}

// Deletions are the lines that delete rules of a chain.
func Deletions(chain string, rules []Rule) (lines []string) {
	for _, r := range rules {
		lines = append(lines, "-D "+chain+" "+r.Text)
	}
	return lines
}

// Chain is a chain of a table.
type Chain struct {
	Policy string // ACCEPT or DROP; "-" for a chain that only rules call
	Rules  []Rule
}

// Rule is a rule as far as this project writes rules.
type Rule struct {
	Match
	Text string // the line of iptables-save behind "-A CHAIN "
}

// Match is what a rule looks at, and what it does.
type Match struct {
	Src, Dst    [2]netip.Addr // -m iprange --src-range, --dst-range: first and last; zero is any
	Established bool          // -m conntrack --ctstate RELATED,ESTABLISHED
	Mark        uint32        // -m mark --mark N/N: all of these bits are set; 0 is any
	Comment     string        // -m comment --comment, at most 255 bytes
	Target      string        // ACCEPT, DROP, RETURN, MASQUERADE, or the chain to jump to; "" is none
	Random      bool          // --random-fully, of MASQUERADE
	Other       bool          // there is more to the rule
}

// String writes the rule for iptables-restore(8), behind "-A CHAIN ". The comment must not hold quotes or backslashes.
func (m Match) String() string {
	var out []string
	if m.Src[0].IsValid() || m.Dst[0].IsValid() {
		out = append(out, "-m iprange")
	}
	if m.Src[0].IsValid() {
		out = append(out, "--src-range "+m.Src[0].String()+"-"+m.Src[1].String())
	}
	if m.Dst[0].IsValid() {
		out = append(out, "--dst-range "+m.Dst[0].String()+"-"+m.Dst[1].String())
	}
	if m.Established {
		out = append(out, "-m conntrack --ctstate RELATED,ESTABLISHED")
	}
	if m.Mark != 0 {
		out = append(out, fmt.Sprintf("-m mark --mark %#x/%#[1]x", m.Mark))
	}
	if m.Comment != "" {
		out = append(out, `-m comment --comment "`+m.Comment+`"`)
	}
	if m.Target != "" {
		out = append(out, "-j "+m.Target)
	}
	if m.Random {
		out = append(out, "--random-fully")
	}
	return strings.Join(out, " ")
}

// parse reads the output of iptables-save for one table.
func parse(text string) Ruleset {
	rs := Ruleset{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, ":"):
			name, rest, _ := strings.Cut(line[1:], " ")
			policy, _, _ := strings.Cut(rest, " ")
			rs[name] = Chain{Policy: policy}
		case strings.HasPrefix(line, "-A "):
			name, rule, _ := strings.Cut(line[3:], " ")
			c := rs[name]
			c.Rules = append(c.Rules, Rule{Match: parseMatch(words(rule)), Text: rule})
			rs[name] = c
		}
	}
	return rs
}

func parseMatch(args []string) (m Match) {
	value := func() (v string) {
		if len(args) > 0 {
			v, args = args[0], args[1:]
		}
		return v
	}
	for len(args) > 0 {
		switch value() {
		case "-m":
			value()
		case "--src-range":
			m.Src = m.addrRange(value())
		case "--dst-range":
			m.Dst = m.addrRange(value())
		case "--comment":
			m.Comment = value()
		case "--ctstate":
			m.Established = value() == "RELATED,ESTABLISHED"
			m.Other = m.Other || !m.Established
		case "--mark":
			m.Mark = m.bits(value())
		case "--random-fully":
			m.Random = true
		case "-j":
			m.Target = value()
		default:
			m.Other = true
		}
	}
	return m
}

// bits reads a mark and its mask, which are the same.
func (m *Match) bits(s string) uint32 {
	v, mask, ok := strings.Cut(s, "/")
	a, err1 := strconv.ParseUint(v, 0, 32)
	b, err2 := strconv.ParseUint(mask, 0, 32)
	if !ok || err1 != nil || err2 != nil || a != b {
		m.Other = true
		return 0
	}
	return uint32(a)
}

func (m *Match) addrRange(s string) (r [2]netip.Addr) {
	first, last, ok := strings.Cut(s, "-")
	if !ok {
		last = first
	}
	a, err1 := netip.ParseAddr(first)
	b, err2 := netip.ParseAddr(last)
	if err1 != nil || err2 != nil {
		m.Other = true
		return r
	}
	return [2]netip.Addr{a, b}
}

// words splits a line as iptables-restore does: at spaces outside of double quotes, a backslash takes the next character
// as it is.
func words(line string) (out []string) {
	var (
		word           strings.Builder
		quoted, inWord bool
	)
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\' && i+1 < len(line):
			i++
			word.WriteByte(line[i])
			inWord = true
		case c == '"':
			quoted = !quoted
			inWord = true
		case c == ' ' && !quoted:
			if inWord {
				out = append(out, word.String())
			}
			word.Reset()
			inWord = false
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	if inWord {
		out = append(out, word.String())
	}
	return out
}

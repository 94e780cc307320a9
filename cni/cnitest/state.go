//go:build linux

package cnitest

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"sort"
	"strings"

	"github.com/cniblocks/cniblocks/netns"
)

// programs are asked for lists, one a line of their standard input.
var programs = []struct {
	argv  string
	lists []list
}{
	{"ip -N -d -j -batch -", []list{
		{"link", "", `link =ifname =info_kind ?UP address mtu master group ifalias id local local6 remote port external learning!true protocol
			mode vlan_filtering ikey okey table port_hairpin port_isolated port_neigh_suppress port_learning!true port_flood!true port_mcast_flood!true`, nil},
		{"address", "addr_info", "address =ifname =local /prefixlen address scope", func(o object) bool {
			return strings.HasPrefix(o.text("local"), "fe80:") && o.text("prefixlen") == "64"
		}},
		{"route show table all", "", "route =dst type!1 gateway host dev prefsrc metric protocol scope table!254 ?onlink mtu advmss encap nexthops",
			func(o object) bool { return o.text("protocol") == "2" }}, // the kernel's own
		{"rule", "", ruleWords, nil},
		{"neigh show nud permanent", "", "neighbour =dev =dst lladdr protocol", nil},
	}},
	{"ip -6 -N -j -batch -", []list{{"rule", "", ruleWords, nil}}},
	{"bridge -j -batch -", []list{
		{"fdb show", "", "fdb =ifname =mac dst port vni vlan", func(o object) bool { return o["dst"] == nil && o.text("state") != "static" }},
		{"vlan show", "vlans", "vlan =ifname vlan vlanEnd ?PVID ?Egress_Untagged", nil},
	}},
}

// list is what is asked for, the key of each object below which those are that count, and the words for them: a key that is
// told with its value unless that is empty, 0, false or what stands behind "!"; "=" tells the value alone, "/" adds it to the
// word before with a slash, "?" tells a flag. What the kernel learns, makes or counts by itself has no words.
type list struct {
	ask, below, words string
	skip              func(object) bool
}

const ruleWords = "rule priority src /srclen dst /dstlen iif oif fwmark table"

// object is one of those that iproute2 lists, with what is nested in it.
type object map[string]any

func (o object) add(prefix string, m map[string]any) {
	for key, v := range m {
		list, _ := v.([]any)
		for _, e := range list {
			switch e := e.(type) {
			case string:
				o["?"+strings.ReplaceAll(e, " ", "_")] = true
			case map[string]any:
				if len(list) == 1 {
					o.add(prefix, e)
				}
			}
		}
		if nested, ok := v.(map[string]any); ok && key == "info_slave_data" {
			o.add("port_", nested)
		} else if ok {
			o.add(prefix, nested)
		}
		o[prefix+key] = v
	}
}

func (o object) text(key string) string {
	if o[key] == nil {
		return ""
	}
	return fmt.Sprint(o[key])
}

// line is the object in words.
func (o object) line(words string) string {
	title, words, _ := strings.Cut(words, " ")
	for word := range strings.FieldsSeq(words) {
		key, usual, _ := strings.Cut(strings.TrimLeft(word, "=/"), "!")
		switch v := o.text(key); {
		case slices.Contains([]string{"", "0", usual}, v) || v == "false" && usual == "":
		case word[0] == '/':
			title += "/" + v
		case word[0] == '=':
			title += " " + v
		case word[0] == '?':
			title += " " + strings.ToLower(key[1:])
		default:
			title += " " + key + " " + v
		}
	}
	return title
}

// state is what a namespace has, to be compared: lines, and as the last the rules of nftables.
type state []string

func read(ns *netns.NS) (s state, err error) {
	for _, p := range programs {
		questions := ""
		for _, l := range p.lists {
			questions += l.ask + "\n"
		}
		out, err := run(ns, p.argv, questions)
		if err != nil {
			return nil, err
		}
		answers := json.NewDecoder(strings.NewReader(out))
		answers.UseNumber()
		for _, l := range p.lists {
			var all []map[string]any
			if err := answers.Decode(&all); err != nil {
				return nil, fmt.Errorf("%s, %s: %w", p.argv, l.ask, err)
			}
			s = append(s, l.lines(all)...)
		}
	}
	if !slices.ContainsFunc(s, func(l string) bool { return strings.Contains(l, " vlan_filtering 1") }) {
		s = slices.DeleteFunc(s, func(l string) bool { return strings.HasPrefix(l, "vlan ") }) // nobody heeds them
	}
	rules, err := run(ns, "nft --stateless list ruleset", "")
	return append(s, strings.ReplaceAll(wrapped.ReplaceAllString(rules, ", "), "\t", "  ")), err
}

var wrapped = regexp.MustCompile(`,\n\s+`)

func (l list) lines(all []map[string]any) (lines []string) {
	for _, m := range all {
		counts := []any{m}
		if l.below != "" {
			counts, _ = m[l.below].([]any)
		}
		for _, c := range counts {
			c, _ := c.(map[string]any)
			o := object{"ifname": m["ifname"]}
			if o.add("", c); l.skip == nil || !l.skip(o) {
				lines = append(lines, o.line(l.words))
			}
		}
	}
	sort.Strings(lines)
	return lines
}

// since is what is new, and what is gone.
func (s state) since(old state) string {
	var out []string
	for _, l := range old[:len(old)-1] {
		if !slices.Contains(s, l) {
			out = append(out, "gone: "+l)
		}
	}
	for _, l := range s {
		if !slices.Contains(old, l) {
			out = append(out, l)
		}
	}
	return strings.TrimSpace(strings.Join(out, "\n"))
}

// run is what a program prints in the namespace.
func run(ns *netns.NS, argv, in string) (string, error) {
	var out []byte
	err := ns.Do(func() (err error) {
		words := strings.Fields(argv)
		cmd := exec.Command(words[0], words[1:]...)
		cmd.Stdin = strings.NewReader(in)
		out, err = cmd.CombinedOutput()
		return err
	})
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", argv, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

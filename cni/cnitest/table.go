//go:build linux

package cnitest

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/netns"
)

var update = flag.Bool("update", false, "write what the tables of cnitest come to into their files")

// Table runs a plugin with the netconfs of a file, each on a node and with a container of its own, and compares what comes
// of them with what the file says. With the flag -update of the test it writes that into the file. A case of the file is
//
//	== its name
//	the netconf
//	-- ipam --
//	the leases of the plugin "fake", a line each, see [IPAM]
//	-- args --
//	CNI_ARGS
//	-- peers.json --
//	a file in $DIR: any section that has a dot in its name
//	-- answer --
//	what ADD prints
//	-- node --
//	what is new on the node; what is no longer there has "gone: " before it
//	-- pod --
//	the same of the container
//	-- left --
//	what is new on the node after DEL
//
// of which the name and the netconf must be there. $DIR is a directory of the case, $POD the container's namespace. A MAC
// address that is not stated becomes a name, the same for the same address. After an ADD that succeeds CHECK must, where the
// version has it, and DEL too; then no lease of "fake" is held.
type Table struct {
	Plugin    cni.Plugin
	Delegates cni.Delegates // beside "fake"
	// Prepare gives the node what the plugin expects there, such as an uplink; dir is $DIR. Nil is nothing.
	Prepare func(t testing.TB, node *netns.NS, dir string)
	// Edit changes text before it is compared, for names that the plugin makes by chance. Nil is nothing.
	Edit func(string) string
}

type section struct{ name, text string }

// outputs are the sections that come of a case.
var outputs = []string{"answer", "node", "pod", "left"}

var (
	heading = regexp.MustCompile(`(?m)^== (.+)\n`)
	title   = regexp.MustCompile(`(?m)^-- (.+) --\n`)
	mac     = regexp.MustCompile(`\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b`)
)

// split is a text by its titles; what is before the first has none.
func split(text string, at *regexp.Regexp) (all []section) {
	name := ""
	for m := at.FindStringSubmatchIndex(text); m != nil; m = at.FindStringSubmatchIndex(text) {
		all, name, text = append(all, section{name, strings.Trim(text[:m[0]], "\n")}), text[m[2]:m[3]], text[m[1]:]
	}
	return append(all, section{name, strings.Trim(text, "\n")})
}

// Run tests each case of a file as a subtest of its name. It skips the test where no namespace can be made, or ip, bridge or
// nft is missing.
func (tab Table) Run(t *testing.T, file string) {
	t.Helper()
	b, err := os.ReadFile(file)
	must(t, err)
	for _, program := range []string{"ip", "bridge", "nft"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("lane: install iproute2 and nftables: %v", err)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("lane: needs root, for network namespaces")
	}
	cases := split(string(b), heading)
	out := cases[0].text
	for _, c := range cases[1:] {
		t.Run(c.name, func(t *testing.T) {
			sections := split(c.text, title)
			got := tab.run(t, sections)
			out += "\n\n== " + c.name + "\n"
			for i, s := range sections {
				switch {
				case i == 0:
					out += s.text
				case !slices.Contains(outputs, s.name):
					out += "\n-- " + s.name + " --\n" + s.text
				}
			}
			for i, name := range outputs {
				want := ""
				if j := slices.IndexFunc(sections, func(s section) bool { return s.name == name }); j >= 0 {
					want = sections[j].text
				}
				if !*update && got[i] != want {
					t.Errorf("%s is\n%s\n\n%s says\n%s\n\nIf it is right so, run the test with -update.", name, got[i], file, want)
				}
				if got[i] != "" {
					out += "\n-- " + name + " --\n" + got[i]
				}
			}
		})
	}
	if len(cases) == 1 {
		t.Fatalf("%s has no case", file)
	}
	if *update && !t.Failed() {
		must(t, os.WriteFile(file, []byte(strings.TrimLeft(out, "\n")+"\n"), 0o644))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (tab Table) run(t *testing.T, sections []section) (got []string) {
	t.Helper()
	dir, fake, inputs, q := t.TempDir(), &IPAM{}, "", Request{}
	for i, s := range sections {
		text := strings.ReplaceAll(s.text, "$DIR", dir)
		switch {
		case slices.Contains(outputs, s.name):
			continue
		case i == 0:
			q.Config = text
		case s.name == "args":
			q.Args = text
		case s.name == "ipam":
			fake.Leases = strings.Split(text, "\n")
		case strings.Contains(s.name, ".") && filepath.IsLocal(s.name):
			must(t, os.WriteFile(filepath.Join(dir, s.name), []byte(text), 0o600))
		default:
			t.Fatalf("there is no section %q", s.name)
		}
		inputs += text
	}
	node, pod := namespace(t), namespace(t)
	if tab.Prepare != nil {
		tab.Prepare(t, node, dir)
	}
	q.Pod = pod
	delegates := cni.Delegates{"fake": fake}
	maps.Copy(delegates, tab.Delegates)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ask := func(verb cni.Verb) Answer {
		q.Verb = verb
		a, err := q.Run(ctx, node, tab.Plugin, delegates)
		must(t, err)
		return a
	}
	look := func(ns *netns.NS) state { s, err := read(ns); must(t, err); return s }
	before, beforePod := look(node), look(pod)
	added := ask(cni.ADD)
	var answer bytes.Buffer
	must(t, json.Indent(&answer, added.Out, "", "  "))
	texts := []string{strings.TrimSpace(answer.String()), look(node).since(before), look(pod).since(beforePod), ""}
	if added.Status == 0 {
		q.Prev = added.Out
		r, err := q.Build(nil)
		must(t, err)
		if slices.Index(cni.Versions, r.Version) >= slices.Index(cni.Versions, "0.4.0") {
			if a := ask(cni.CHECK); a.Status != 0 {
				t.Errorf("CHECK: %s", a.Out)
			}
		}
		if a := ask(cni.DEL); a.Status != 0 {
			t.Errorf("DEL: %s", a.Out)
		}
		texts[3] = look(node).since(before)
	}
	if held := fake.Held(); len(held) > 0 {
		t.Errorf("leases are still held: %v", held)
	}
	names := map[string]string{}
	for _, text := range texts {
		text = strings.NewReplacer(dir, "$DIR", path(pod), "$POD").Replace(text)
		text = mac.ReplaceAllStringFunc(text, func(m string) string {
			switch {
			case strings.Contains(inputs, m) || m == "00:00:00:00:00:00":
				return m
			case names[m] == "":
				names[m] = fmt.Sprintf("MAC%d", len(names)+1)
			}
			return names[m]
		})
		if tab.Edit != nil {
			text = tab.Edit(text)
		}
		got = append(got, text)
	}
	return got
}

// namespace is one with lo up, for the length of the test.
func namespace(t *testing.T) *netns.NS {
	t.Helper()
	ns, err := netns.New()
	must(t, err)
	t.Cleanup(func() { _ = ns.Close() })
	_, err = run(ns, "ip link set lo up", "")
	must(t, err)
	return ns
}

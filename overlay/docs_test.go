//go:build linux

package overlay_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/overlay"
	"github.com/cniblocks/cniblocks/peer"
)

const pages = "../docs/encapsulations/"

func TestTheDocumentationHasTheTableOfWhatWorks(t *testing.T) {
	t.Parallel()
	const marker = "go test ./overlay -run Documentation -->\n"
	page, err := os.ReadFile(pages + "README.md")
	require.NoError(t, err)
	before, after, found := strings.Cut(string(page), marker)
	require.True(t, found)
	want := "\n" + supportTable()
	if os.Getenv("UPDATE_DOCS") != "" {
		require.NoError(t, os.WriteFile(pages+"README.md", []byte(before+marker+want), 0o644))
		return
	}
	require.Equal(t, want, after)
}

func TestEveryKeyOnAPageIsReadAndEveryKeyThatIsReadStandsOnItsPage(t *testing.T) {
	t.Parallel()
	var all []string
	for f := range reflect.TypeFor[overlay.Config]().Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "-" && name != "encap" {
			all = append(all, name)
		}
	}
	for _, encap := range overlay.Names() {
		page, err := os.ReadFile(pages + encap + ".md")
		require.NoError(t, err)
		var told, read []string
		for line := range strings.Lines(string(page)) {
			if cells := strings.Split(line, "|"); strings.HasPrefix(line, "| `") && len(cells) >= 5 {
				for _, key := range regexp.MustCompile("`([A-Za-z0-9]+)`").FindAllStringSubmatch(cells[1], -1) {
					told = append(told, key[1])
				}
			}
		}
		for _, key := range all {
			if stated(t, encap, key) == nil {
				read = append(read, key)
			}
		}
		require.ElementsMatch(t, read, told, encap)
	}
}

// stated is what becomes of a configuration with a value for the key.
func stated(t *testing.T, encap, key string) error {
	t.Helper()
	for _, value := range []string{`"point-to-point"`, "1", "true"} {
		c := overlay.Config{Encap: encap, Bridge: "cni0", L2: key == "allowUplink" || key == "neighSuppress"}
		if json.Unmarshal([]byte(`{"`+key+`": `+value+`}`), &c) == nil {
			_, err := c.Encapsulation()
			return err
		}
	}
	t.Fatalf("no value for key %q", key)
	return nil
}

// supportTable is the table in Markdown: a line for each form, a column for pods of a family over an underlay of a family.
func supportTable() string {
	var b strings.Builder
	b.WriteString("| | IPv4 pods over IPv4 | IPv4 pods over IPv6 | IPv6 pods over IPv4 | IPv6 pods over IPv6 |\n|---|---|---|---|---|\n")
	rows := slices.Collect(overlay.Table())
	var refusals []string
	for line := range slices.Chunk(rows, 4) {
		fmt.Fprintf(&b, "| %s |", form(line[0].Config))
		for _, s := range line {
			if s.Refused == "" {
				fmt.Fprintf(&b, " %d bytes |", s.Overhead)
				continue
			}
			i := slices.Index(refusals, s.Refused)
			if i < 0 {
				i = len(refusals)
				refusals = append(refusals, s.Refused)
			}
			fmt.Fprintf(&b, " refused (%d) |", i+1)
		}
		b.WriteString("\n")
	}
	b.WriteString("\nThe errors say:\n\n")
	for i, r := range refusals {
		fmt.Fprintf(&b, "%d. `%s`\n", i+1, r)
	}
	return b.String()
}

func form(c overlay.Config) string {
	s := "`" + c.Encap + "`"
	if c.GPE {
		s += ", `gpe`"
	}
	if c.Mode != "" {
		s += ", `" + c.Mode + "`"
	}
	if c.L2 {
		s += ", `l2`"
	}
	return s
}

// feature is what the kernel must have for a row of the table.
func feature(s overlay.Support) nstest.Feature {
	v6 := s.Underlay == inet.IPv6
	switch {
	case s.Config.Encap == "gre" && s.Config.L2 && v6:
		return nstest.IP6GRETap
	case s.Config.Encap == "gre" && s.Config.L2:
		return nstest.GRETap
	case s.Config.Encap == "gre" && v6:
		return nstest.IP6GRE
	case s.Config.Encap == "ipip" && v6:
		return nstest.IP6Tnl
	case s.Config.Encap == "ipip" && s.Pods == inet.IPv6:
		return nstest.SIT
	case s.Config.Encap == "host-gw":
		return nstest.Bridge
	}
	return nstest.Feature(s.Config.Encap)
}

func TestEveryRowOfTheTableHolds(t *testing.T) {
	t.Parallel()
	for s := range overlay.Table() {
		t.Run(fmt.Sprintf("%s %s pods over %s", form(s.Config), s.Pods, s.Underlay), func(t *testing.T) {
			t.Parallel()
			e, err := s.Config.Encapsulation()
			if err != nil {
				require.EqualError(t, err, s.Refused)
				return
			}
			nstest.Need(t, feature(s))
			c := newCluster(t, 2)
			for _, n := range c.nodes {
				n.Pods = n.Pods[b2i(s.Pods == inet.IPv6):][:1]
				if s.Underlay == inet.IPv4 {
					n.V6 = peer.Endpoint{}
				} else {
					n.V4 = peer.Endpoint{}
				}
				if s.Config.L2 {
					ip(t, n.ns, "link add cni0 type bridge")
				}
			}
			c.keys(e)
			n := c.nodes[0]
			n.open(t, e)
			err = n.net.Set(t.Context(), c.peers())
			if s.Refused != "" {
				require.ErrorContains(t, err, s.Refused)
				return
			}
			require.NoError(t, err)
			require.NoError(t, n.net.Check(t.Context()))
			require.Equal(t, 1500-s.Overhead, n.net.MTU(c.nodes[1].Peer))
		})
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestANodeSetUpByHandAsTheDocumentationSaysTalksToOurs(t *testing.T) {
	t.Parallel()
	for _, s := range []struct {
		page  string
		encap overlay.Encap
		need  []nstest.Feature
	}{
		{"vxlan", overlay.VXLAN{}, []nstest.Feature{nstest.VXLAN}},
		{"gre", overlay.GRE{}, []nstest.Feature{nstest.GRE}},
		{"ipip", overlay.IPIP{}, []nstest.Feature{nstest.IPIP, nstest.SIT}},
	} {
		t.Run(s.page, func(t *testing.T) {
			t.Parallel()
			nstest.Need(t, s.need...)
			c := newCluster(t, 3)
			for _, n := range c.nodes {
				n.V6 = peer.Endpoint{}
			}
			for _, n := range c.nodes[:2] {
				n.open(t, s.encap)
				require.NoError(t, n.net.Set(t.Context(), c.peers()))
			}
			byHand := c.nodes[2]
			for _, line := range commands(t, s.page) {
				words := strings.Fields(line)
				require.NoError(t, byHand.ns.Do(func() error {
					out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
					if err != nil {
						err = fmt.Errorf("%s: %w: %s", line, err, out)
					}
					return err
				}))
			}
			byHand.net = c.nodes[0].net // for the MTU of its pods
			c.addPods()
			c.reach()
			c.streams()
		})
	}
}

// commands are those of the page's section on a node set up by hand.
func commands(t *testing.T, page string) []string {
	t.Helper()
	b, err := os.ReadFile(pages + page + ".md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(b), "## A node set up by hand")
	require.True(t, found)
	_, block, found := strings.Cut(section, "```sh\n")
	require.True(t, found)
	block, _, found = strings.Cut(block, "```")
	require.True(t, found)
	return strings.Split(strings.TrimSpace(block), "\n")
}

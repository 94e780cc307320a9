//go:build linux

package refsuite_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/binaries"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/reference"
	"github.com/cniblocks/cniblocks/test/internal/node"
)

var focus = flag.String("focus", "", "run only specs whose name matches the expression")

func TestMain(m *testing.M) {
	node.Init()
	nstest.Main(m, binaries.Remove)
}

// suite is a plugin with its tests, and what may differ.
type suite struct {
	plugin, pkg string
	needs       []string         // other plugins
	kernel      []nstest.Feature // that its tests take for granted
	only        string           // an expression: the specs that are run without -focus; empty: all
	differs     []difference
}

// difference is a spec that passes with the reference's file and fails with ours.
type difference struct {
	spec     string   // its name without the version
	versions []string // of CNI that it fails in
	why      string
}

const (
	names     = "names of firewall objects"
	linkLocal = "a bridge gets its link-local address with its first carrier, not before"
	mustFail  = "it wants a DEL to fail"
	tinyBurst = "a burst of a few bytes, which lets no packet pass, is refused"
	undone    = "an ADD whose result has no form in the version fails, and leaves no interface"
)

var (
	all      = []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}
	multiple = all[2:]  // those whose results have several addresses
	chained  = all[2:6] // those that the reference tries its chained plugins in
)

var suites = []suite{
	{plugin: "loopback", pkg: "plugins/main/loopback"},
	{plugin: "host-local", pkg: "plugins/ipam/host-local"},
	{plugin: "portmap", pkg: "plugins/meta/portmap", needs: []string{"host-local", "ptp"}, differs: []difference{
		{"portmap integration tests Creating an interface in a namespace with the ptp plugin forwards a TCP port on ipv4", []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0"}, names},
	}},
	{plugin: "macvlan", pkg: "plugins/main/macvlan", needs: []string{"host-local"}, kernel: []nstest.Feature{nstest.Dummy}, differs: []difference{
		{"macvlan Operations configures and deconfigures a l2 macvlan link with ADD/DEL", all[:2], undone},
		{"macvlan Operations configures and deconfigures l2 macvlan link with mac address (from CNI_ARGS) with ADD/DEL", all[:2], undone},
		{"macvlan Operations configures and deconfigures l2 macvlan link with mac address (from RuntimeConfig) with ADD/DEL", all[:2], undone},
	}},
	{plugin: "dhcp", pkg: "plugins/ipam/dhcp", only: `\[(0\.2\.0|1\.1\.0)\]`}, // its own client waits for seconds in each
	{plugin: "ptp", pkg: "plugins/main/ptp", needs: []string{"host-local"}},
	{plugin: "bandwidth", pkg: "plugins/meta/bandwidth", needs: []string{"host-local", "ptp"}, differs: []difference{
		{"bandwidth test cmdADD works with a Veth pair", chained, tinyBurst},
		{"bandwidth test cmdADD does not apply ingress when disabled", chained, tinyBurst},
		{"bandwidth test cmdADD does not apply egress when disabled", chained, tinyBurst},
		{"bandwidth test cmdADD works with a Veth pair using runtime config", chained, tinyBurst},
		{"bandwidth test cmdDEL works with a Veth pair using 0.3.0 config", chained, tinyBurst},
		{"bandwidth test Getting the host interface which plugin should work on from veth peer of container interface should work with multiple host veth interfaces", chained, tinyBurst},
	}},
	{plugin: "bridge", pkg: "plugins/main/bridge", needs: []string{"host-local"}, differs: []difference{
		{"bridge Operations configures mac spoof-check (no mac spoofing)", all, names},
		{`bridge Operations configures a bridge and ipMasq rules with ipMasqBackend ""`, multiple, names},
		{`bridge Operations configures a bridge and ipMasq rules with ipMasqBackend "iptables"`, multiple, names},
		{`bridge Operations configures a bridge and ipMasq rules with ipMasqBackend "nftables"`, multiple, names},
		{"bridge Operations should set the container veth peer state down", multiple, linkLocal},
		{"bridge Operations (3) configures and deconfigures a bridge and veth with default route with ADD/DEL", all[:2], mustFail},
		{"bridge Operations (3) configures and deconfigures a bridge, veth with default route and vlanID 100 with ADD/DEL", all[:2], mustFail},
		{"bridge Operations (3) configures and deconfigures a bridge, veth with default route and vlanID 100 and no default vlan with ADD/DEL", all[:2], mustFail},
	}},
}

var version = regexp.MustCompile(`\[([0-9.]+)\] `)

// expected finds why a spec may differ.
func (s suite) expected(name string) (why string) {
	v := version.FindStringSubmatch(name)
	for _, d := range s.differs {
		if v != nil && slices.Contains(d.versions, v[1]) && version.ReplaceAllString(name, "") == d.spec {
			return d.why
		}
	}
	return ""
}

type spec struct {
	Name, State, Why string
	At               int
	Applies          bool
}

func (s spec) passed() bool { return s.State == "passed" }

func TestOfTheReferencesSpecsThatItsOwnFilesPassOursFailOnlyTheListed(t *testing.T) {
	node.NeedRealRoot(t)
	own, err := binaries.Build()
	require.NoError(t, err)
	for _, s := range suites {
		t.Run(s.plugin, func(t *testing.T) {
			t.Parallel()
			nstest.Need(t, s.kernel...)
			binary, err := compile(s.plugin, s.pkg)
			require.NoError(t, err)
			theirs, err := reference.Build(append(s.needs, s.plugin)...)
			require.NoError(t, err)
			only := cmp.Or(*focus, s.only)
			want, have := run(t, binary, theirs, only), run(t, binary, own, only)
			compare(t, s, want, have)
		})
	}
}

func compare(t *testing.T, s suite, want, have []spec) {
	t.Helper()
	require.Equal(t, len(want), len(have))
	var applies, passWant, passHave int
	var internals []string
	for i, w := range want {
		h := have[i]
		require.Equal(t, w.Name, h.Name)
		if cmp.Or(*focus, s.only) != "" && w.State == "skipped" {
			continue
		}
		if !w.Applies {
			internals = append(internals, w.Name)
			continue
		}
		applies++
		if h.passed() {
			passHave++
		}
		if !w.passed() {
			t.Logf("fails with the reference's own file: %s: %s", w.Name, short(w.Why))
			continue
		}
		passWant++
		switch why := s.expected(w.Name); {
		case h.passed() && why != "":
			t.Errorf("is listed as different, and is not: %s", h.Name)
		case h.passed():
		case why != "":
			t.Logf("differs, %s: %s", why, h.Name)
		default:
			t.Errorf("passes with the reference's file and fails with ours, line %d: %s\n%s", h.At, h.Name, h.Why)
		}
	}
	require.NotZero(t, passWant, "the harness is wrong, if the reference's own file passes nothing")
	t.Logf("%s: of %d specs the reference's file passes %d, ours %d; %d of internal functions are not applicable:\n  %s",
		s.plugin, applies, passWant, passHave, len(internals), strings.Join(internals, "\n  "))
}

// short is a failure in one line.
func short(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	return s[:min(len(s), 200)]
}

// run runs the specs on a node of their own, in a fixed order.
func run(t *testing.T, binary, plugins, only string) (specs []spec) {
	t.Helper()
	n := node.New(t)
	report := filepath.Join(t.TempDir(), "report")
	_, err := n.Run(nil, "mkdir", "-p", "/var/lib/misc") // where dnsmasq has its leases
	require.NoError(t, err)
	out, err := n.Run([]string{binEnv + "=" + plugins, reportEnv + "=" + report, "PATH=" + plugins + ":" + os.Getenv("PATH")},
		binary, "-ginkgo.seed=1", "-ginkgo.no-color", "-ginkgo.focus="+only, "-test.timeout=20m")
	var exit *exec.ExitError
	require.True(t, err == nil || errors.As(err, &exit), "%v", err)
	f, openErr := os.Open(report)
	require.NoError(t, openErr, "%v\n%s", err, out)
	defer f.Close()
	for d := json.NewDecoder(f); ; {
		var s spec
		if err := d.Decode(&s); err == io.EOF {
			break
		} else {
			require.NoError(t, err)
		}
		specs = append(specs, s)
	}
	return specs
}

//go:build linux

package hostlocal

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/reference"
	"github.com/cniblocks/cniblocks/ipam"
)

func TestMain(m *testing.M) {
	if flag.Parse(); flag.Lookup("test.fuzz").Value.String() != "" {
		os.Exit(m.Run()) // fuzzing keeps a goroutine
	}
	nstest.Main(m)
}

// call is one call of the plugin, or of the reference.
type call struct {
	verb, id, args string
	config         string // DATA stands for the data directory
}

func (c call) environment() map[string]string {
	if c.id == "" {
		c.id = "alice"
	}
	return map[string]string{"CNI_COMMAND": c.verb, "CNI_CONTAINERID": c.id, "CNI_IFNAME": "eth0", "CNI_ARGS": c.args,
		"CNI_NETNS": "/proc/self/ns/net", "CNI_PATH": "/nowhere", "CNI_NETNS_OVERRIDE": "1"}
}

func (c call) input(data string) string { return strings.ReplaceAll(c.config, "DATA", data) }

type answer struct {
	failed bool
	out    string // JSON
	errs   string
}

func (a answer) code(t *testing.T) int {
	t.Helper()
	require.True(t, a.failed, a.out)
	var e struct{ Code int }
	require.NoError(t, json.Unmarshal([]byte(a.out), &e))
	return e.Code
}

func ours(t *testing.T, data string, c call) answer {
	env := c.environment()
	var out, errs bytes.Buffer
	status := cni.Run(t.Context(), Plugin{}, nil, func(k string) string { return env[k] }, strings.NewReader(c.input(data)), &out, &errs)
	return answer{status != 0, out.String(), errs.String()}
}

func theirs(t *testing.T, data string, c call) answer {
	dir, err := reference.Build("host-local")
	require.NoError(t, err)
	cmd := exec.Command(filepath.Join(dir, "host-local"))
	for k, v := range c.environment() {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.Stdin = strings.NewReader(c.input(data))
	out, err := cmd.Output()
	return answer{err != nil, string(out), ""}
}

// config is a netconf with this inside of "ipam", and more keys behind it.
func config(version, inside string, more ...string) string {
	return fmt.Sprintf(`{"cniVersion":%q,"name":"blue","type":"bridge","ipam":{"type":"host-local","dataDir":"DATA",%s}%s}`,
		version, inside, strings.Join(append([]string{""}, more...), ","))
}

const (
	one  = `"subnet":"10.1.0.0/24"`
	dual = `"ranges":[[{"subnet":"10.1.0.0/24"}],[{"subnet":"fd00::/64"}]]`
)

func leases(t *testing.T, data string) []string {
	entries, err := os.ReadDir(filepath.Join(data, "blue"))
	if !os.IsNotExist(err) {
		require.NoError(t, err)
	}
	var names []string
	for _, e := range entries {
		if strings.ContainsAny(e.Name(), ":0123456789") && !strings.HasPrefix(e.Name(), "last_") {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestEveryKeyMeansWhatItMeansToTheReference(t *testing.T) {
	t.Parallel()
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	require.NoError(t, os.WriteFile(resolv, []byte("# comment\nnameserver 192.0.2.1\n ;x\nnameserver 2001:db8::1\ndomain a.example\nsearch b.example c.example\noptions ndots:2 debug\nsortlist 1\nnameserver\n"), 0o600))
	for name, c := range map[string]call{
		"subnet":                       {config: config("1.0.0", one)},
		"range and gateway":            {config: config("1.0.0", one+`,"rangeStart":"10.1.0.40","rangeEnd":"10.1.0.50","gateway":"10.1.0.40"`)},
		"gateway elsewhere":            {config: config("1.0.0", one+`,"gateway":"169.254.1.1"`)},
		"subnet and ranges":            {config: config("1.0.0", one+`,"ranges":[[{"subnet":"10.2.0.0/24"},{"subnet":"10.3.0.0/24"}],[{"subnet":"fd00::/64","gateway":"fd00::9"}]]`)},
		"routes":                       {config: config("1.1.0", one+`,"routes":[{"dst":"0.0.0.0/0"},{"dst":"192.0.2.0/24","gw":"10.1.0.9","mtu":1400,"advmss":1300,"priority":5,"table":77,"scope":253}]`)},
		"routes without extras":        {config: config("1.0.0", one+`,"routes":[{"dst":"::/0","gw":"fd00::1"},{"dst":"10.9.0.0/16"}]`)},
		"resolvConf":                   {config: config("1.0.0", one+`,"resolvConf":"`+resolv+`"`)},
		"runtimeConfig.ipRanges":       {config: config("1.0.0", one, `"runtimeConfig":{"ipRanges":[[{"subnet":"10.5.0.0/24"}],[{"subnet":"fd05::/64","rangeStart":"fd05::77"}]]}`)},
		"runtimeConfig.ipRanges alone": {config: config("1.0.0", `"routes":[]`, `"runtimeConfig":{"ipRanges":[[{"subnet":"10.5.0.0/24"}]]}`)},
		"runtimeConfig.ips":            {config: config("1.0.0", dual, `"runtimeConfig":{"ips":["10.1.0.99/24","fd00::99"]}`)},
		"args.cni.ips":                 {config: config("1.0.0", dual, `"args":{"cni":{"ips":["fd00::99"]}}`)},
		"CNI_ARGS IP":                  {config: config("1.0.0", dual), args: "IgnoreUnknown=1;K8S_POD_NAME=x;IP=10.1.0.77"},
		"CNI_ARGS IP with a length":    {config: config("1.0.0", dual), args: "IP=10.1.0.77/16"},
		"all three":                    {config: config("1.0.0", one+`,"ranges":[[{"subnet":"10.2.0.0/24"}],[{"subnet":"fd00::/64"}]]`, `"args":{"cni":{"ips":["fd00::99"]}},"runtimeConfig":{"ips":["10.2.0.9"]}`), args: "IP=10.1.0.8"},
		"the same address twice":       {config: config("1.0.0", one, `"args":{"cni":{"ips":["10.1.0.9","10.1.0.9"]}}`)},
		"mapped addresses":             {config: config("1.0.0", one+`,"rangeStart":"::ffff:10.1.0.9"`)},
		"0.1.0":                        {config: config("0.1.0", dual)},
		"0.2.0":                        {config: config("0.2.0", dual)},
		"0.3.1":                        {config: config("0.3.1", dual)},
		"0.4.0":                        {config: config("0.4.0", dual)},
		"1.1.0":                        {config: config("1.1.0", dual)},
		"no version":                   {config: `{"name":"blue","type":"bridge","ipam":{"type":"host-local","dataDir":"DATA","subnet":"10.1.0.0/24"}}`},
		"unknown keys":                 {config: config("1.0.0", one+`,"colour":"red"`, `"bridge":"br0"`)},

		"bad: no ranges":           {config: config("1.0.0", `"routes":[]`)},
		"bad: no ipam":             {config: `{"cniVersion":"1.0.0","name":"blue","type":"bridge"}`},
		"bad: empty set":           {config: config("1.0.0", `"ranges":[[]]`)},
		"bad: mixed set":           {config: config("1.0.0", `"ranges":[[{"subnet":"10.1.0.0/24"},{"subnet":"fd00::/64"}]]`)},
		"bad: overlap":             {config: config("1.0.0", one+`,"ranges":[[{"subnet":"10.1.0.0/25"}]]`)},
		"bad: host bits":           {config: config("1.0.0", `"subnet":"10.1.0.1/24"`)},
		"bad: no length":           {config: config("1.0.0", `"subnet":"10.1.0.0"`)},
		"bad: start outside":       {config: config("1.0.0", one+`,"rangeStart":"10.2.0.1"`)},
		"bad: end before start":    {config: config("1.0.0", one+`,"rangeStart":"10.1.0.9","rangeEnd":"10.1.0.8"`)},
		"bad: address unknown":     {config: config("1.0.0", one), args: "IP=10.9.0.1"},
		"bad: gateway asked":       {config: config("1.0.0", one), args: "IP=10.1.0.1"},
		"bad: two of one pool":     {config: config("1.0.0", one, `"runtimeConfig":{"ips":["10.1.0.8","10.1.0.9"]}`)},
		"bad: IP":                  {config: config("1.0.0", one), args: "IP=ten"},
		"bad: IP's length":         {config: config("1.0.0", one), args: "IP=10.1.0.9/99"},
		"bad: ips":                 {config: config("1.0.0", one, `"runtimeConfig":{"ips":["10.1.0"]}`)},
		"bad: resolvConf":          {config: config("1.0.0", one+`,"resolvConf":"/nowhere/resolv.conf"`)},
		"bad: old and two of IPv4": {config: config("0.2.0", `"ranges":[[{"subnet":"10.1.0.0/24"}],[{"subnet":"10.2.0.0/24"}]]`)},
		"bad: version":             {config: config("7.0.0", one)},
		"bad: type of a value":     {config: config("1.0.0", `"subnet":7`)},
		"bad: JSON":                {config: `{`},
	} {
		t.Run(name, func(t *testing.T) {
			mine, ref := t.TempDir(), t.TempDir()
			c.verb = "ADD"
			want, got := theirs(t, ref, c), ours(t, mine, c)
			require.Equal(t, strings.HasPrefix(name, "bad"), want.failed, want.out)
			require.Equal(t, want.failed, got.failed, "%s\n%s", want.out, got.out)
			if want.failed {
				require.Contains(t, []int{1, 4, 6, 7}, got.code(t), got.out)
				entries, err := os.ReadDir(mine)
				require.NoError(t, err)
				require.Empty(t, entries, "nothing was changed")
				return
			}
			require.JSONEq(t, normal(t, want.out), normal(t, got.out))
			require.Equal(t, leases(t, ref), leases(t, mine))
			for _, verb := range []string{"DEL", "DEL"} {
				c.verb = verb
				require.False(t, theirs(t, mine, c).failed, "theirs DELs what ours ADDed")
				require.False(t, ours(t, ref, c).failed, "ours DELs what theirs ADDed")
			}
			require.Empty(t, leases(t, mine))
			require.Empty(t, leases(t, ref))
		})
	}
}

// normal is a result without the empty objects and the order that mean nothing.
func normal(t *testing.T, result string) string {
	var m map[string]any
	require.NoError(t, json.Unmarshal([]byte(result), &m), result)
	if d, ok := m["dns"].(map[string]any); ok && len(d) == 0 {
		delete(m, "dns")
	}
	b, err := json.Marshal(m)
	require.NoError(t, err)
	return string(b)
}

func TestDelNeedsNoRangesAndSucceedsTwice(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	require.False(t, ours(t, data, call{verb: "ADD", config: config("1.0.0", dual)}).failed)
	for _, c := range []string{config("1.0.0", `"subnet":"10.99.0.0/24"`), config("1.0.0", `"ranges":[]`), config("1.0.0", `"subnet":"nonsense"`)} {
		require.False(t, ours(t, data, call{verb: "DEL", id: "bob", config: c}).failed)
		require.Len(t, leases(t, data), 2)
	}
	for range 2 {
		a := ours(t, data, call{verb: "DEL", config: config("1.0.0", `"ranges":[]`)})
		require.False(t, a.failed, a.out)
		require.Empty(t, leases(t, data))
	}
	none := t.TempDir()
	require.False(t, ours(t, none, call{verb: "DEL", config: config("1.0.0", one)}).failed)
	entries, err := os.ReadDir(none)
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestADuplicateAddFailsAndASecondAfterDelSucceeds(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	add := call{verb: "ADD", config: config("1.0.0", dual)}
	require.False(t, ours(t, data, add).failed)
	before := leases(t, data)
	a := ours(t, data, add)
	require.True(t, a.failed)
	require.Contains(t, a.out, `owner holds a lease already, 10.1.0.2: release it first`)
	require.Equal(t, before, leases(t, data))
	require.False(t, ours(t, data, call{verb: "DEL", config: add.config}).failed)
	require.False(t, ours(t, data, add).failed)
}

func TestCheckPassesAfterAddAndFailsWhenTheLeaseIsGoneOrAnothers(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	result := ours(t, data, call{verb: "ADD", config: config("1.0.0", dual)})
	require.False(t, result.failed)
	check := call{verb: "CHECK", config: config("1.0.0", dual, `"prevResult":`+result.out)}
	require.False(t, ours(t, data, check).failed)
	require.False(t, ours(t, data, call{verb: "CHECK", config: config("1.0.0", dual)}).failed, "without a prevResult")

	lease := filepath.Join(data, "blue", "10.1.0.2")
	require.NoError(t, os.WriteFile(lease, []byte("bob\r\neth0"), 0o600))
	a := ours(t, data, check)
	require.True(t, a.failed)
	require.Contains(t, a.out, `10.1.0.2: address is taken by container \"bob\", interface \"eth0\"`)
	require.NoError(t, os.Remove(lease))
	a = ours(t, data, check)
	require.True(t, a.failed)
	require.Contains(t, a.out, "10.1.0.2 is leased to nobody")
}

func TestAnExhaustedPoolIsCode11ForAddAnd50ForStatus(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	c := config("1.1.0", `"subnet":"10.1.0.0/30"`)
	status := call{verb: "STATUS", config: c}
	require.False(t, ours(t, data, status).failed)
	require.False(t, ours(t, data, call{verb: "ADD", config: c}).failed)
	require.Equal(t, 50, ours(t, data, status).code(t))
	a := ours(t, data, call{verb: "ADD", id: "bob", config: c})
	require.Equal(t, 11, a.code(t))
	require.Contains(t, a.out, "no address left in range set 0 (10.1.0.1-10.1.0.2), all 1 are in use")
	require.False(t, ours(t, data, call{verb: "DEL", config: c}).failed)
	require.False(t, ours(t, data, status).failed)
}

func TestStatusSeesABadConfigurationAndChangesNothing(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	require.Equal(t, 7, ours(t, data, call{verb: "STATUS", config: config("1.1.0", `"subnet":"10.1.0.1/30"`)}).code(t))
	require.False(t, ours(t, data, call{verb: "STATUS", config: config("1.1.0", one)}).failed)
	entries, err := os.ReadDir(data)
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestGCKeepsExactlyTheValidAttachments(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	for _, id := range []string{"alice", "bob", "carol"} {
		require.False(t, ours(t, data, call{verb: "ADD", id: id, config: config("1.1.0", one)}).failed)
	}
	other := strings.Replace(config("1.1.0", one), `"blue"`, `"green"`, 1)
	require.False(t, ours(t, data, call{verb: "ADD", config: other}).failed)
	gc := config("1.1.0", `"ranges":[]`, `"cni.dev/valid-attachments":[{"containerID":"bob","ifname":"eth0"},{"containerID":"carol","ifname":"eth1"}]`)
	a := ours(t, data, call{verb: "GC", config: gc})
	require.False(t, a.failed, a.out)
	require.Equal(t, []string{"10.1.0.3"}, leases(t, data))
	require.FileExists(t, filepath.Join(data, "green", "10.1.0.2"), "other networks are untouched")
}

func TestAnUnknownKeyIsAWarningThatNamesTheNearest(t *testing.T) {
	t.Parallel()
	a := ours(t, t.TempDir(), call{verb: "ADD", config: config("1.0.0", one+`,"rangestrat":"10.1.0.9"`, `"bridge":"br0"`)})
	require.False(t, a.failed)
	require.Contains(t, a.errs, `"ipam.rangestrat"`)
	require.Contains(t, a.errs, `"rangeStart"`)
	require.NotContains(t, a.errs, "br0", "the caller's own keys are not ours to judge")
}

func TestAWrongValueNamesTheKeyAndTheValue(t *testing.T) {
	t.Parallel()
	for inside, want := range map[string][]string{
		`"subnet":"10.1.0.5/24"`:              {"subnet 10.1.0.5/24", "write 10.1.0.0/24"},
		`"subnet":7`:                          {"subnet", "number"},
		`"subnet":"10.1.0.0"`:                 {"subnet", "10.1.0.0"},
		one + `,"rangeStart":"ten"`:           {"rangeStart", "ten"},
		one + `,"gateway":"10.1"`:             {"gateway", "10.1"},
		`"ranges":[[{"subnet":"x"}]]`:         {"ranges", "x"},
		one + `,"routes":[{"dst":"x"}]`:       {"dst", "x"},
		one + `,"routes":{"dst":"x"}`:         {"routes", "object"},
		one + `,"dataDir":[]`:                 {"dataDir", "array"},
		one + `,"resolvConf":"/nowhere/file"`: {"resolvConf", "/nowhere/file"},
	} {
		a := ours(t, t.TempDir(), call{verb: "ADD", config: config("1.0.0", inside)})
		require.Equal(t, 7, a.code(t), inside)
		for _, w := range want {
			require.Contains(t, a.out, w, inside)
		}
	}
}

func TestOtherPluginsArgumentsAreNotRejected(t *testing.T) {
	t.Parallel()
	a := ours(t, t.TempDir(), call{verb: "ADD", args: "MAC=02:00:00:00:00:01;FOO=1", config: config("1.0.0", one)})
	require.False(t, a.failed, a.out)
}

func TestAPodThatTheReferenceAddedIsCheckedAndTheOtherWayRound(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	c := config("1.0.0", dual)
	result := theirs(t, data, call{verb: "ADD", config: c})
	require.False(t, result.failed)
	require.False(t, ours(t, data, call{verb: "CHECK", config: config("1.0.0", dual, `"prevResult":`+result.out)}).failed)
	result = ours(t, data, call{verb: "ADD", id: "bob", config: c})
	require.False(t, result.failed)
	require.False(t, theirs(t, data, call{verb: "CHECK", id: "bob", config: config("1.0.0", dual, `"prevResult":`+result.out)}).failed)
}

func TestAddsAtOnceNeverShareAnAddress(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			c := call{verb: "ADD", id: fmt.Sprint("c", i), config: config("1.0.0", dual)}
			require.False(t, ours(t, data, c).failed)
			if i%2 == 0 {
				c.verb = "DEL"
				require.False(t, ours(t, data, c).failed)
			}
		})
	}
	wg.Wait()
	require.Len(t, leases(t, data), 64)
}

func FuzzAConfigurationIsReadOrRefused(f *testing.F) {
	f.Add(config("1.0.0", one), "IP=10.1.0.9")
	f.Add(config("1.1.0", dual, `"runtimeConfig":{"ips":["fd00::9/64"],"ipRanges":[[{"subnet":"10.5.0.0/24"}]]}`), "")
	f.Add(config("0.2.0", `"ranges":[[{"subnet":"10.1.0.0/31"}],[]]`, `"args":{"cni":{"ips":[null,""]}}`), "IP=;IP")
	f.Fuzz(func(t *testing.T, netconf, args string) {
		env := call{verb: "ADD", args: args}.environment()
		r, err := cni.NewRequest(func(k string) string { return env[k] }, strings.NewReader(netconf))
		if err != nil {
			return
		}
		c, err := load(r)
		if err != nil {
			require.NotEqual(t, cni.ErrInternal, cni.CodeOf(err), err)
			return
		}
		require.NotEmpty(t, c.pools)
		require.False(t, slices.ContainsFunc(c.pools, func(p ipam.Pool) bool { return len(p) == 0 }))
	})
}

func TestAnErrorThatScriptsLookForBeginsAsTheReferences(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ version, keys, says string }{
		"a wish":               {"1.0.0", `"ipam": {"type": "host-local", "dataDir": "DATA", "subnet": "10.1.0.0/24"}, "runtimeConfig": {"ips": ["10.9.9.9"]}`, "failed to allocate all requested IPs: 10.9.9.9"},
		"two of a family":      {"0.2.0", `"ipam": {"type": "host-local", "dataDir": "DATA", "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}]]}`, "CNI version 0.2.0 does not support more than 1 address per family"},
		"a verb that is newer": {"0.3.1", `"ipam": {"type": "host-local", "dataDir": "DATA", "subnet": "10.1.0.0/24"}`, "config version does not allow CHECK"},
	} {
		verb := "ADD"
		if strings.HasSuffix(c.says, "CHECK") {
			verb = "CHECK"
		}
		for who, run := range map[string]func(*testing.T, string, call) answer{"ours": ours, "the reference": theirs} {
			a := run(t, t.TempDir(), call{verb: verb, config: `{"cniVersion": "` + c.version + `", "name": "net", "type": "x", ` + c.keys + `}`})
			require.True(t, a.failed, name)
			var e struct{ Msg string }
			require.NoError(t, json.Unmarshal([]byte(a.out), &e))
			require.True(t, strings.HasPrefix(e.Msg, c.says), "%s, %s: %s", name, who, e.Msg)
		}
	}
}

func TestCNIARGSThatNobodyCanReadKeepsNoDELFromSucceeding(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	c := call{verb: "ADD", config: `{"cniVersion": "1.0.0", "name": "net", "type": "x", "ipam": {"type": "host-local", "dataDir": "DATA", "subnet": "10.1.0.0/24"}}`}
	require.False(t, ours(t, data, c).failed)
	c.verb, c.args = "DEL", "none"
	require.False(t, ours(t, data, c).failed)
	require.NoFileExists(t, filepath.Join(data, "net", "10.1.0.2"))
	c.verb = "ADD"
	require.Equal(t, int(cni.ErrEnvironment), ours(t, data, c).code(t), "an ADD reads it")
}

package main

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	cniversion "github.com/containernetworking/cni/pkg/version"
	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/base/version"
	"github.com/cniblocks/cniblocks/internal/test/binaries"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m, binaries.Remove) }

func bin(t *testing.T) string {
	t.Helper()
	dir, err := binaries.Build()
	require.NoError(t, err)
	return dir
}

type answer struct {
	status    int
	out, errs string
}

// run runs a program with that name as its argument 0, and with nothing in its environment but what is given.
func run(t *testing.T, program, arg0 string, args, env []string, stdin string) answer {
	t.Helper()
	cmd := &exec.Cmd{Path: program, Args: append([]string{arg0}, args...), Env: append([]string{}, env...), Stdin: strings.NewReader(stdin)}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return answer{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

func names() []string { return slices.Sorted(maps.Keys(plugins(nil))) }

func TestEveryPluginIsListedAndLinked(t *testing.T) {
	t.Parallel()
	dir := bin(t)
	a := run(t, filepath.Join(dir, "bridge"), "bridge", []string{"--list"}, nil, "")
	require.Zero(t, a.status)
	require.Equal(t, strings.Join(names(), "\n")+"\n", a.out)
	require.Empty(t, a.errs)
	first, err := os.Stat(filepath.Join(dir, "bridge"))
	require.NoError(t, err)
	for _, name := range names() {
		st, err := os.Stat(filepath.Join(dir, name))
		require.NoError(t, err)
		require.True(t, os.SameFile(first, st), name)
	}
}

func TestTheProgramIsStatic(t *testing.T) {
	t.Parallel()
	f, err := elf.Open(filepath.Join(bin(t), "bridge"))
	require.NoError(t, err)
	defer f.Close()
	for _, p := range f.Progs {
		require.NotEqual(t, elf.PT_INTERP, p.Type)
	}
	libs, err := f.ImportedLibraries()
	require.NoError(t, err)
	require.Empty(t, libs)
}

func TestHelpGoesToStandardOutputAndMistakesToStandardError(t *testing.T) {
	t.Parallel()
	program := filepath.Join(bin(t), "bridge")
	for _, flag := range []string{"--help", "-h"} {
		a := run(t, program, "bridge", []string{flag}, nil, "")
		require.Zero(t, a.status)
		require.Empty(t, a.errs)
		require.Contains(t, a.out, "One program serves as "+strings.Join(names(), ", "))
	}
	for _, args := range [][]string{nil, {"--nonsense"}, {"--help", "x"}, {"add"}} {
		a := run(t, program, "bridge", args, nil, "")
		require.Equal(t, 1, a.status, args)
		require.Empty(t, a.out)
		require.Contains(t, a.errs, "A container runtime calls it")
	}
}

func TestEachPluginExplainsItselfAndTellsItsVersion(t *testing.T) {
	t.Parallel()
	program, texts := filepath.Join(bin(t), "bridge"), map[string]string{}
	for _, name := range names() {
		a := run(t, program, name, []string{"--help"}, nil, "")
		require.True(t, strings.HasPrefix(a.out, name+": a CNI plugin of cniblocks, which "), a.out)
		require.Contains(t, a.out, `"type":"`+name+`"`)
		require.Contains(t, a.out, "/opt/cni/bin/"+name+"\n")
		_, text, _ := strings.Cut(a.out, "which ")
		text, _, _ = strings.Cut(text, "\n")
		require.Empty(t, texts[text], "%s says the same", name)
		texts[text] = name
		more := a.out[strings.Index(a.out, "All keys: ")+len("All keys: "):]
		require.FileExists(t, filepath.Join("..", strings.TrimSuffix(more[:strings.IndexByte(more, '\n')], ".")))

		for _, env := range [][]string{nil, {"CNI_COMMAND=ADD"}} {
			a = run(t, program, name, []string{"--version"}, env, "")
			require.Zero(t, a.status)
			require.Equal(t, fmt.Sprintf("CNI %s plugin, cniblocks %s\nCNI 0.1.0 to 1.1.0\n", name, version.String()), unstamped(a.out))
		}
	}
}

// unstamped takes out what only a program is stamped with that is built in a checkout, and a test is not.
func unstamped(s string) string {
	return regexp.MustCompile(`cniblocks .*, (go\d)`).ReplaceAllString(s, "cniblocks (devel), commit unknown: built outside of a checkout and of an archive made by git, $1")
}

// whose is what only that plugin says of wrong, which is no one's configuration.
var whose = map[string]string{
	"bandwidth":  "bandwidth is a chained plugin",
	"bridge":     `key "vlan"`,
	"flannel":    `key "subnetFile": `,
	"host-gw":    "of host-gw has no",
	"host-local": `key "ipam" is missing; host-local`,
	"loopback":   "CNI_NETNS: ",
	"macvlan":    `key "mode" is "wrong"`,
	"overlay":    `key "encap"`,
	"portmap":    `is missing: portmap is a chained plugin`,
	"ptp":        `key "ipam" is missing; ptp`,
}

const wrong = `{"cniVersion": "1.0.0", "name": "net", "type": %q, "vlan": 5000, "mode": "wrong"}`

// who is the plugin that answers, which is called as arg0 with the type of that name.
func who(t *testing.T, program, arg0 string) string {
	t.Helper()
	env := []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=c1", "CNI_NETNS=/run/netns/not-there", "CNI_IFNAME=eth0", "CNI_PATH=" + filepath.Dir(program)}
	a := run(t, program, arg0, nil, env, fmt.Sprintf(wrong, filepath.Base(arg0)))
	require.Equal(t, 1, a.status, arg0)
	var e struct {
		Version string `json:"cniVersion"`
		Code    cni.Code
		Msg     string
	}
	require.NoError(t, json.Unmarshal([]byte(a.out), &e), "%s: %s", arg0, a.out)
	require.Equal(t, "1.0.0", e.Version)
	require.Contains(t, a.errs, e.Msg, "a person reads it too")
	for _, name := range names() {
		if strings.Contains(e.Msg, whose[name]) {
			require.NotEqual(t, cni.ErrInternal, e.Code)
			return name
		}
	}
	return e.Msg
}

// duplicate puts a copy of the program into dir, or into one of its own.
func duplicate(t *testing.T, dir, name string) string {
	t.Helper()
	if dir == "" {
		dir = t.TempDir()
	}
	b, err := os.ReadFile(filepath.Join(bin(t), "bridge"))
	require.NoError(t, err)
	path := filepath.Join(dir, name)
	syscall.ForkLock.RLock() // no child that is just being started may hold it open for writing
	defer syscall.ForkLock.RUnlock()
	require.NoError(t, os.WriteFile(path, b, 0o700))
	return path
}

func TestALinkIsThePluginThatItPointsTo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for link, to := range map[string]string{"cnv-bridge": filepath.Join(bin(t), "bridge"), "again": "cnv-bridge", "flannel-wg": filepath.Join(bin(t), "host-gw"),
		"lo": filepath.Join(bin(t), "loopback"), "loopback": filepath.Join(bin(t), "bridge"), "my-lo": "loopback", "bridge-overlay": "again",
		"up": "../" + filepath.Base(dir) + "/lo"} {
		require.NoError(t, os.Symlink(to, filepath.Join(dir, link)))
	}
	for link, want := range map[string]string{"cnv-bridge": "bridge", "again": "bridge", "flannel-wg": "host-gw", "lo": "loopback",
		"loopback": "loopback", "my-lo": "loopback", "bridge-overlay": "bridge", "up": "loopback"} {
		require.Equal(t, want, who(t, filepath.Join(dir, link), filepath.Join(dir, link)), link)
	}
}

func TestACopyWhoseNameHoldsOneKnownNameIsThatOne(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{"bridge.real": "bridge", "rancher-bridge": "bridge", "flannel-wg": "flannel", ".bridge-wrapped": "bridge",
		"my_host-local_2": "host-local", "my_host_local": "host-local", "host-gw@1.2": "host-gw", "bridge-bridge": "bridge"} {
		path := duplicate(t, "", name)
		require.Equal(t, want, who(t, path, path), name)
	}
	for name, found := range map[string]string{"bridge-loopback": "bridge and loopback", "bridge2": "none", "Bridge": "none", "xbridge": "none",
		"host": "none", "nonsense": "none", "host-local-overlay.bridge": "bridge and host-local and overlay"} {
		path := duplicate(t, "", name)
		require.Contains(t, who(t, path, path), fmt.Sprintf("called as %q, and which it is follows from its name, which holds %s of %s", name, found, strings.Join(names(), ", ")))
		a := run(t, path, path, nil, []string{"CNI_COMMAND=VERSION"}, "")
		require.Equal(t, 1, a.status)
		require.Contains(t, a.out, `"code":7`)
		a = run(t, path, path, nil, nil, "")
		require.Equal(t, 1, a.status)
		require.Empty(t, a.out, "nobody asks by the specification")
		require.Contains(t, a.errs, "One program serves as")
	}
}

func TestTheFileSaysWhichPluginItIsWhereArgument0DoesNot(t *testing.T) {
	t.Parallel()
	copied := duplicate(t, "", "rancher-flannel")
	for _, arg0 := range []string{"", ".", "/", "nonsense", "/proc/self/fd/7", "../nonsense"} {
		require.Equal(t, "bridge", who(t, filepath.Join(bin(t), "bridge"), arg0), arg0)
		require.Equal(t, "flannel", who(t, copied, arg0), arg0)
	}
	f, err := os.Open(filepath.Join(bin(t), "host-local"))
	require.NoError(t, err)
	defer f.Close()
	at := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())
	require.Equal(t, "host-local", who(t, at, at), "by descriptor")

	require.NoError(t, os.Rename(duplicate(t, filepath.Dir(copied), "new"), copied)) // while another starts
	gone := duplicate(t, "", "loopback")
	g, err := os.Open(gone)
	require.NoError(t, err)
	defer g.Close()
	require.NoError(t, os.Remove(gone))
	at = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), g.Fd())
	require.Equal(t, "loopback", who(t, at, at), "a file that is gone")
}

// TestUnderOtherNamesEverythingIsTheSame: the delegate and the IPAM plugin of an overlay too, in this process and executed.
func TestUnderOtherNamesEverythingIsTheSame(t *testing.T) {
	t.Parallel()
	nstest.NeedRoot(t)
	nstest.Need(t, nstest.NFT)
	dir := t.TempDir()
	duplicate(t, dir, "rancher-overlay")
	duplicate(t, dir, "my-host-gw")
	require.NoError(t, os.Symlink(filepath.Join(bin(t), "host-local"), filepath.Join(dir, "leases")))
	require.NoError(t, os.Symlink(filepath.Join(bin(t), "bridge"), filepath.Join(dir, "cnv-bridge")))
	duplicate(t, dir, "host-local.real")
	peers := filepath.Join(dir, "peers.json")
	require.NoError(t, os.WriteFile(peers, []byte(`{"network":["10.244.0.0/16"],"peers":[
		{"name":"a","endpoint":["192.0.2.11"],"pods":["10.244.1.0/24"]},{"name":"b","endpoint":["192.0.2.12"],"pods":["10.244.2.0/24"]}]}`), 0o600))
	story := func(main, delegate, ipam string) (said []string) {
		node, pod, out := nstest.New(t), nstest.New(t), nstest.New(t)
		nstest.Link(t, nstest.End{NS: node, Name: "eth0", Addrs: []string{"192.0.2.11/24"}}, nstest.End{NS: out, Name: "eth0"})
		state := t.TempDir()
		conf := map[string]any{"cniVersion": "1.1.0", "name": "net", "type": main, "encap": "vxlan", "peersFile": peers, "ipMasq": true,
			"stateDir": filepath.Join(state, "run"), "dataDir": filepath.Join(state, "lib"), "delegate": map[string]any{"type": delegate,
				"ipam": map[string]any{"type": ipam, "dataDir": filepath.Join(state, "leases")}}}
		if strings.HasSuffix(main, "host-gw") {
			delete(conf, "encap")
		}
		call := func(verb string) {
			b, err := json.Marshal(conf)
			require.NoError(t, err)
			var a answer
			require.NoError(t, node.Do(func() error {
				program := filepath.Join(dir, main)
				if _, err := os.Stat(program); err != nil {
					program = filepath.Join(bin(t), main)
				}
				a = run(t, program, program, nil, []string{"CNI_COMMAND=" + verb, "CNI_CONTAINERID=c1", "CNI_IFNAME=eth0", "CNI_PATH=" + dir + ":" + bin(t),
					"CNI_NETNS=" + fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), pod.Fd())}, string(b))
				return nil
			}))
			require.Zero(t, a.status, "%s: %s%s", verb, a.out, a.errs)
			require.Empty(t, a.errs, verb)
			if verb == "ADD" {
				conf["prevResult"] = json.RawMessage(a.out)
			}
			text := regexp.MustCompile(`[0-9a-f]{2}(:[0-9a-f]{2}){5}|/proc/[0-9/a-z]+`).ReplaceAllString(a.out+"\n"+nstest.Dump(node), "X")
			for line := range strings.Lines(text) {
				if !strings.HasPrefix(line, "fdb ") && !strings.Contains(line, "fe80:") { // which come by and by
					said = append(said, verb+" "+line)
				}
			}
		}
		for _, verb := range []string{"STATUS", "ADD", "CHECK", "GC", "DEL"} {
			if verb == "GC" {
				conf["cni.dev/valid-attachments"] = []cni.Attachment{{ContainerID: "c1", IfName: "eth0"}}
			}
			call(verb)
		}
		return said
	}
	want := story("overlay", "bridge", "host-local")
	require.Contains(t, strings.Join(want, ""), `"address":"10.244.1.2/24","gateway":"10.244.1.1"`)
	for _, delegate := range []string{"bridge", "cnv-bridge"} {
		for _, ipam := range []string{"leases", "host-local.real"} {
			require.Equal(t, want, story("rancher-overlay", delegate, ipam), "%s %s", delegate, ipam)
		}
	}
	require.Equal(t, story("host-gw", "bridge", "host-local"), story("my-host-gw", "cnv-bridge", "leases"))
}

func TestEveryNameAnswersVERSIONHoweverItIsCalled(t *testing.T) {
	t.Parallel()
	program := filepath.Join(bin(t), "bridge")
	for _, name := range names() {
		for _, arg0 := range []string{name, "./" + name, "/opt/cni/bin/" + name} {
			a := run(t, program, arg0, nil, []string{"CNI_COMMAND=VERSION"}, `{"cniVersion": "1.1.0"}`)
			require.Zero(t, a.status, "%s: %s", name, a.out)
			info, err := (&cniversion.PluginDecoder{}).Decode([]byte(a.out))
			require.NoError(t, err)
			require.Equal(t, cni.Versions, info.SupportedVersions())
		}
	}
}

func TestTheNameSaysWhichPluginAnswers(t *testing.T) {
	t.Parallel()
	dir := bin(t)
	for _, name := range names() {
		require.Equal(t, name, who(t, filepath.Join(dir, name), filepath.Join(dir, name)))
		require.Equal(t, name, who(t, filepath.Join(dir, "bridge"), name))
	}
	require.Len(t, whose, len(names()), "one of them is not tested here")
}

func TestALoopbackWorksWithNothingInTheEnvironmentButTheRequest(t *testing.T) {
	t.Parallel()
	pod := nstest.New(t)
	at := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), pod.Fd())
	a := run(t, filepath.Join(bin(t), "loopback"), "loopback", nil, []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=c1", "CNI_NETNS=" + at,
		"CNI_IFNAME=lo", "CNI_PATH=/nowhere"}, `{"cniVersion": "1.0.0", "name": "net", "type": "loopback"}`)
	require.Zero(t, a.status, "%s %s", a.out, a.errs)
	res, err := cni.ParseResult([]byte(a.out))
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1/8", res.IPs[0].Address.String())
}

// TestAnExecutedPluginHasTheEnvironmentOfTheCaller is about what internal/base/start adds for the program itself.
func TestAnExecutedPluginHasTheEnvironmentOfTheCaller(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	said := filepath.Join(dir, "said")
	syscall.ForkLock.RLock() // no child that is just being started may hold it open for writing
	teller := "#!/bin/sh\n{ export -p; grep Cpus_allowed: /proc/$$/status; } > " + said + "\n"
	err := os.WriteFile(filepath.Join(dir, "teller"), []byte(teller), 0o700)
	syscall.ForkLock.RUnlock()
	require.NoError(t, err)
	processors, err := exec.Command("grep", "Cpus_allowed:", "/proc/self/status").Output()
	require.NoError(t, err)
	conf := `{"cniVersion":"1.1.0","name":"n","type":"bridge","bridge":"cb-none","ipam":{"type":"teller"}}`
	for stated, want := range map[string]string{"X=1": "", "GOMAXPROCS=7": "GOMAXPROCS='7'"} {
		a := run(t, filepath.Join(bin(t), "bridge"), "bridge", nil, []string{"CNI_COMMAND=STATUS", "CNI_PATH=" + dir, stated}, conf)
		require.Zero(t, a.status, a.out+a.errs)
		env, err := os.ReadFile(said)
		require.NoError(t, err)
		require.Contains(t, string(env), "CNI_COMMAND='STATUS'")
		require.Equal(t, want != "", strings.Contains(string(env), "GOMAXPROCS"), "%s", env)
		require.Contains(t, string(env), want)
		require.Contains(t, string(env), string(processors))
	}
}

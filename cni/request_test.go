package cni_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
)

func TestARequestIsReadFromEnvironmentAndConfiguration(t *testing.T) {
	t.Parallel()
	r := request(t, cni.ADD, `{"cniVersion": "1.0.0", "name": "net", "type": "fake", "prevResult": {"ips": [{"address": "10.0.0.2/24"}]}}`,
		"CNI_ARGS=IgnoreUnknown=1;IP=10.0.0.7;MAC=;a=b=c", "CNI_PATH=/a:/b")
	require.Equal(t, "1.0.0", r.Version)
	require.Equal(t, "net", r.Network)
	require.Equal(t, "fake", r.Type)
	require.Equal(t, []string{"/a", "/b"}, r.Path)
	require.Equal(t, cni.Attachment{ContainerID: "c1", IfName: "eth0"}, r.Attachment())
	require.Equal(t, "10.0.0.2/24", r.Prev.IPs[0].Address.String())
	for key, want := range map[string]string{"IP": "10.0.0.7", "MAC": "", "a": "b=c", "IgnoreUnknown": "1"} {
		got, ok := r.Arg(key)
		require.True(t, ok, key)
		require.Equal(t, want, got, key)
	}
	for _, key := range []string{"ip", "mac", "I", "", "10.0.0.7"} {
		_, ok := r.Arg(key)
		require.False(t, ok, key)
	}
}

func TestAnEnvironmentThatIsWrongIsRefusedWithItsVariable(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 10000)
	for _, c := range []struct {
		verb    cni.Verb
		changes string
		says    string
	}{
		{"", "", "CNI_COMMAND is not set"},
		{"add", "", `CNI_COMMAND="add"; want one of ADD, DEL`},
		{cni.ADD, "CNI_PATH", "CNI_PATH is not set"},
		{cni.GC, "CNI_PATH", "CNI_PATH is not set"},
		{cni.ADD, "CNI_CONTAINERID", `CNI_CONTAINERID=""`},
		{cni.DEL, "CNI_CONTAINERID", `CNI_CONTAINERID=""`},
		{cni.ADD, "CNI_CONTAINERID=..", `CNI_CONTAINERID=".."`},
		{cni.ADD, "CNI_CONTAINERID=../../etc", `CNI_CONTAINERID="../../etc"`},
		{cni.ADD, "CNI_CONTAINERID=a/b", `CNI_CONTAINERID="a/b"`},
		{cni.ADD, "CNI_CONTAINERID=a\x00b", `CNI_CONTAINERID="a\x00b"`},
		{cni.ADD, "CNI_CONTAINERID=-a", `CNI_CONTAINERID="-a"`},
		{cni.ADD, "CNI_CONTAINERID=ä", `CNI_CONTAINERID="ä"`},
		{cni.ADD, "CNI_CONTAINERID=" + long, "x...\"; want letters"},
		{cni.ADD, "CNI_IFNAME", `CNI_IFNAME=""`},
		{cni.CHECK, "CNI_IFNAME=..", `CNI_IFNAME=".."`},
		{cni.ADD, "CNI_IFNAME=a/b", `CNI_IFNAME="a/b"`},
		{cni.ADD, "CNI_IFNAME=a:b", `CNI_IFNAME="a:b"`},
		{cni.ADD, "CNI_IFNAME=a b", `CNI_IFNAME="a b"`},
		{cni.ADD, "CNI_IFNAME=eth%d", `CNI_IFNAME="eth%d"`},
		{cni.ADD, "CNI_IFNAME=sixteen-letters-", `CNI_IFNAME="sixteen-letters-"`},
		{cni.ADD, "CNI_NETNS", "CNI_NETNS is not set"},
		{cni.CHECK, "CNI_NETNS", "CNI_NETNS is not set"},
		{cni.ADD, "CNI_NETNS=/a\x00b", "not a path"},
		{cni.ADD, "CNI_NETNS=/" + long, "not a path"},
	} {
		_, err := cni.NewRequest(environ(c.verb, c.changes), strings.NewReader(netconf))
		require.ErrorContains(t, err, c.says)
		require.Equal(t, cni.ErrEnvironment, cni.CodeOf(err), c.says)
		require.Less(t, len(err.Error()), 400)
	}
}

func TestCNIARGSIsRefusedOnlyByWhoReadsItAndOnlyWhereSomethingIsMade(t *testing.T) {
	t.Parallel()
	for args, says := range map[string]string{"IP": `CNI_ARGS: "IP" is no KEY=VALUE`, "A=1;" + strings.Repeat("x", 300): "is no KEY=VALUE"} {
		for _, verb := range []cni.Verb{cni.ADD, cni.CHECK, cni.DEL, cni.STATUS, cni.GC} {
			err := request(t, verb, netconf, "CNI_ARGS="+args).CheckArgs()
			if verb != cni.ADD && verb != cni.CHECK {
				require.NoError(t, err)
				continue
			}
			require.ErrorContains(t, err, says)
			require.Equal(t, cni.ErrEnvironment, cni.CodeOf(err))
			require.Less(t, len(err.Error()), 400)
		}
	}
}

func TestAnErrorThatScriptsLookForBeginsAsThatOfTheSpecificationsLibrary(t *testing.T) {
	t.Parallel()
	for verb, since := range map[cni.Verb]string{cni.CHECK: "0.4.0", cni.STATUS: "1.1.0", cni.GC: "1.1.0"} {
		_, err := cni.NewRequest(environ(verb), strings.NewReader(`{"cniVersion": "0.3.1", "name": "net"}`))
		require.EqualError(t, err, fmt.Sprintf(`config version does not allow %s; netconf: key "cniVersion" is "0.3.1"; %[1]s needs %s`, verb, since))
		require.Equal(t, cni.ErrVersion, cni.CodeOf(err))
	}
}

func TestVerbsAskForNoMoreThanTheyNeed(t *testing.T) {
	t.Parallel()
	require.Empty(t, request(t, cni.DEL, netconf, "CNI_NETNS").NetNS)
	request(t, cni.DEL, netconf, "CNI_ARGS=;;A=1;")
	for _, verb := range []cni.Verb{cni.STATUS, cni.GC} {
		request(t, verb, netconf, "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME")
	}
	request(t, cni.VERSION, "", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH")
	request(t, cni.ADD, netconf, "CNI_CONTAINERID="+strings.Repeat("f", 255), "CNI_IFNAME=fifteen-letters")
}

func TestAConfigurationThatIsWrongIsRefusedWithItsKey(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		conf string
		verb cni.Verb
		code cni.Code
		says string
	}{
		{``, cni.ADD, cni.ErrDecode, "not JSON at byte 0"},
		{`{`, cni.ADD, cni.ErrDecode, "not JSON at byte 1"},
		{`{"name": "net",}`, cni.ADD, cni.ErrDecode, "not JSON at byte 16"},
		{"\x00", cni.ADD, cni.ErrDecode, "not JSON"},
		{netconf + netconf, cni.ADD, cni.ErrDecode, "not JSON at byte"},
		{strings.Repeat("[", 100000), cni.ADD, cni.ErrDecode, "not JSON"},
		{`[]`, cni.ADD, cni.ErrConfig, "the netconf is a JSON array; want an object"},
		{`"x"`, cni.VERSION, cni.ErrConfig, "the netconf is a JSON string; want an object"},
		{`{`, cni.VERSION, cni.ErrDecode, "not JSON"},
		{`null`, cni.ADD, cni.ErrConfig, `key "name" is ""`},
		{`{"cniVersion": "9.9.9", "name": "net"}`, cni.ADD, cni.ErrVersion, `key "cniVersion" is "9.9.9"; want one of 0.1.0`},
		{`{"cniVersion": 1, "name": "net"}`, cni.ADD, cni.ErrConfig, `key "cniVersion" is a JSON number; want a string`},
		{`{"cniVersion": "1.0.0"}`, cni.ADD, cni.ErrConfig, `key "name" is ""`},
		{`{"cniVersion": "1.0.0", "name": "../x"}`, cni.ADD, cni.ErrConfig, `key "name" is "../x"`},
		{`{"cniVersion": "1.0.0", "name": "a\u0000b"}`, cni.ADD, cni.ErrConfig, `key "name" is "a\x00b"`},
		{`{"cniVersion": "1.0.0", "name": "` + strings.Repeat("n", 256) + `"}`, cni.ADD, cni.ErrConfig, `key "name" is "nnn`},
		{`{"cniVersion": "0.3.1", "name": "net"}`, cni.CHECK, cni.ErrVersion, `key "cniVersion" is "0.3.1"; CHECK needs 0.4.0`},
		{`{"cniVersion": "1.0.0", "name": "net"}`, cni.STATUS, cni.ErrVersion, "STATUS needs 1.1.0"},
		{`{"cniVersion": "1.0.0", "name": "net"}`, cni.GC, cni.ErrVersion, "GC needs 1.1.0"},
		{`{"name": "net"}`, cni.CHECK, cni.ErrVersion, `key "cniVersion" is "0.1.0"`},
		{`{"cniVersion": "1.0.0", "name": "net", "prevResult": {"ips": "x"}}`, cni.ADD, cni.ErrDecode, `key "prevResult": result: `},
		{`{"cniVersion": "1.0.0", "name": "net", "prevResult": {"cniVersion": "9"}}`, cni.CHECK, cni.ErrVersion, `key "prevResult": result has cniVersion "9"`},
		{`{"cniVersion": "1.0.0", "name": "net", "prevResult": {"interfaces": [{"name": "eth0"}], "ips": [{"address": "10.0.0.2/24", "interface": 1}]}}`, cni.CHECK,
			cni.ErrDecode, "address 10.0.0.2/24 names interface 1 of 1"},
		{`{"cniVersion": "1.1.0", "name": "net", "cni.dev/valid-attachments": 7}`, cni.GC, cni.ErrConfig, `"cni.dev/valid-attachments" is a JSON number; want a list`},
		{`{"cniVersion": "1.1.0", "name": "net"}`, cni.GC, cni.ErrConfig, `"cni.dev/valid-attachments" is missing, and without it GC would remove every attachment`},
		{`{"cniVersion": "1.1.0", "name": "net", "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}, {"containerID": "b"}]}`, cni.GC, cni.ErrConfig,
			`names container "b" with interface ""`},
		{`{"cniVersion": "1.1.0", "name": "net", "cni.dev/valid-attachments": [{"ifname": "eth0"}]}`, cni.GC, cni.ErrConfig, `names container "" with interface "eth0"`},
		{`{"cniVersion": "1.1.0", "name": "net", "cni.dev/valid-attachments": [null]}`, cni.GC, cni.ErrConfig, `names container "" with interface ""`},
		{`{"cniVersion": "1.1.0", "name": "net", "cni.dev/attachments": [{"containerID": "../a", "ifname": "eth0"}]}`, cni.GC, cni.ErrConfig, `names container "../a"`},
		{`{"cniVersion": "1.1.0", "name": "net", "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "e/0"}]}`, cni.GC, cni.ErrConfig, `with interface "e/0"`},
		{`{"cniVersion": "1.1.0", "name": "net", "cni.dev/valid-attachments": ["a"]}`, cni.GC, cni.ErrConfig, `"cni.dev/valid-attachments" is a JSON string; want an object`},
	} {
		_, err := cni.NewRequest(environ(c.verb), strings.NewReader(c.conf))
		require.ErrorContains(t, err, c.says)
		require.Equal(t, c.code, cni.CodeOf(err), c.says)
		require.Less(t, len(err.Error()), 400)
	}
}

func TestADELGetsOnWithABrokenPrevResult(t *testing.T) {
	t.Parallel()
	r := request(t, cni.DEL, `{"cniVersion": "1.0.0", "name": "net", "prevResult": {"ips": "x"}}`)
	require.Nil(t, r.Prev)
	require.Nil(t, request(t, cni.CHECK, `{"cniVersion": "1.0.0", "name": "net", "prevResult": null}`).Prev)
}

func TestAHugeConfigurationIsRefusedBeforeItIsReadToItsEnd(t *testing.T) {
	t.Parallel()
	endless := &counter{r: iotest.DataErrReader(zeroes{})}
	_, err := cni.NewRequest(environ(cni.ADD), endless)
	require.ErrorContains(t, err, "longer than 8388608 bytes")
	require.Equal(t, cni.ErrDecode, cni.CodeOf(err))
	require.Less(t, endless.n, 32<<20)

	broken := errors.New("broken pipe")
	_, err = cni.NewRequest(environ(cni.ADD), iotest.ErrReader(broken))
	require.ErrorIs(t, err, broken)
	require.Equal(t, cni.ErrIO, cni.CodeOf(err))
}

type zeroes struct{}

func (zeroes) Read(b []byte) (int, error) { clear(b); return len(b), nil }

type counter struct {
	r io.Reader
	n int
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += n
	return n, err
}

func TestGCKnowsTheValidAttachments(t *testing.T) {
	t.Parallel()
	r := request(t, cni.GC, `{"cniVersion": "1.1.0", "name": "net", "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}],
		"cni.dev/attachments": [{"containerID": "b", "ifname": "eth1"}]}`)
	require.Equal(t, []cni.Attachment{{ContainerID: "a", IfName: "eth0"}, {ContainerID: "b", IfName: "eth1"}}, r.Valid)
	for _, none := range []string{"[]", "null"} {
		for _, key := range []string{"cni.dev/valid-attachments", "cni.dev/attachments"} {
			require.Empty(t, request(t, cni.GC, `{"cniVersion": "1.1.0", "name": "net", "`+key+`": `+none+`}`).Valid)
		}
	}
	_, err := request(t, cni.STATUS, netconf).With(cni.GC, []byte(`{"cniVersion": "1.1.0", "name": "net"}`))
	require.Equal(t, cni.ErrConfig, cni.CodeOf(err), "nor of a delegate, whose list was not handed down")
}

func TestWithIsTheSameRequestWithAnotherConfiguration(t *testing.T) {
	t.Parallel()
	r := request(t, cni.ADD, netconf, "CNI_ARGS=A=1")
	d, err := r.With(cni.DEL, []byte(`{"cniVersion": "0.4.0", "name": "inner", "type": "other"}`))
	require.NoError(t, err)
	require.Equal(t, []string{"DEL", "inner", "other", "0.4.0", "A=1", "c1"}, []string{string(d.Verb), d.Network, d.Type, d.Version, d.Args, d.ContainerID})
	require.Equal(t, []string{"ADD", "net", "fake", "1.1.0"}, []string{string(r.Verb), r.Network, r.Type, r.Version})
	d.Warn("of the %s", "delegate")
	require.Equal(t, []string{"of the delegate"}, r.Warnings())
	_, err = r.With(cni.ADD, []byte(`{"name": "../x"}`))
	require.Equal(t, cni.ErrConfig, cni.CodeOf(err))
	same, err := r.With(cni.CHECK, nil)
	require.NoError(t, err)
	require.Equal(t, r.Config, same.Config)

	bare := &cni.Request{}
	require.Empty(t, bare.Warnings())
	bare.Warn("x")
	require.Equal(t, []string{"x"}, bare.Warnings())
}

func TestNamesThatCouldBecomePathsAreRefused(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"a", "A.b_c-9", "0", strings.Repeat("n", 255)} {
		require.True(t, cni.ValidName(s), s)
	}
	for _, s := range []string{"", ".", "..", ".a", "_a", "-a", "a/b", "a\\b", "a b", "a\n", "a\x00", "ä", "a\xff", strings.Repeat("n", 256)} {
		require.False(t, cni.ValidName(s), s)
	}
	for _, s := range []string{"eth0", "a.b", "...", "-", "@", "ä", "fifteen-letters"} {
		require.True(t, cni.ValidIfName(s), s)
	}
	for _, s := range []string{"", ".", "..", "a/b", "a:1", "a b", "a\t", "a\x00", "a%d", "%", "à", "sixteen-letters-"} {
		require.False(t, cni.ValidIfName(s), s)
	}
}

package flannel_test

import (
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/peer/flannel"
)

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// subnetEnvs are files as flannel v0.28 writes them, and what they say.
var subnetEnvs = map[string]struct {
	file string
	env  flannel.SubnetEnv
}{
	"IPv4": {
		"FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
		flannel.SubnetEnv{Networks: prefixes("10.244.0.0/16"), Subnets: prefixes("10.244.1.0/24"), MTU: 1450, IPMasq: true},
	},
	"IPv6": {
		"FLANNEL_IPV6_NETWORK=fd00:10:244::/48\nFLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=false\n",
		flannel.SubnetEnv{Networks: prefixes("fd00:10:244::/48"), Subnets: prefixes("fd00:10:244:1::/64"), MTU: 1430},
	},
	"dual stack": {
		"FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n" +
			"FLANNEL_IPV6_NETWORK=fd00:10:244::/48\nFLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n",
		flannel.SubnetEnv{Networks: prefixes("10.244.0.0/16", "fd00:10:244::/48"),
			Subnets: prefixes("10.244.1.0/24", "fd00:10:244:1::/64"), MTU: 1430, IPMasq: true},
	},
	"several networks": {
		"FLANNEL_NETWORK=10.1.0.0/16,192.168.0.0/16\nFLANNEL_SUBNET=10.1.17.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n",
		flannel.SubnetEnv{Networks: prefixes("10.1.0.0/16", "192.168.0.0/16"), Subnets: prefixes("10.1.17.0/24"), MTU: 1472, IPMasq: true},
	},
}

func TestSubnetEnvIsWrittenAndReadByteForByteAsFlannelHasIt(t *testing.T) {
	t.Parallel()
	for name, c := range subnetEnvs {
		require.Equal(t, c.file, string(c.env.Format()), name)
		require.NoError(t, c.env.Validate(), name)
		got, err := flannel.ParseSubnetEnv([]byte(c.file))
		require.NoError(t, err, name)
		require.Equal(t, c.env, got, name)
	}
}

func TestSubnetEnvByAnotherHandIsRead(t *testing.T) {
	t.Parallel()
	want := subnetEnvs["IPv4"].env
	for name, file := range map[string]string{
		"another order":       "FLANNEL_IPMASQ=true\nFLANNEL_MTU=1450\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_NETWORK=10.244.0.0/16\n",
		"no newline at end":   "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true",
		"comments and others": "# by hand\n\nFLANNEL_NETWORK=10.244.0.0/16\nX=\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
		"carriage returns":    "FLANNEL_NETWORK=10.244.0.0/16\r\nFLANNEL_SUBNET=10.244.1.1/24\r\nFLANNEL_MTU=1450\r\nFLANNEL_IPMASQ=true\r\n",
		"host bits":           "FLANNEL_NETWORK=10.244.3.0/16\nFLANNEL_SUBNET=10.244.1.77/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
		"a key twice":         "FLANNEL_MTU=1400\nFLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
	} {
		got, err := flannel.ParseSubnetEnv([]byte(file))
		require.NoError(t, err, name)
		require.Equal(t, want, got, name)
	}
}

func TestAMalformedSubnetEnvNamesLineKeyAndValue(t *testing.T) {
	t.Parallel()
	good := subnetEnvs["dual stack"].file
	replace := func(old, by string) string { return strings.Replace(good, old, by, 1) }
	for says, file := range map[string]string{
		`subnet.env: line 2: key FLANNEL_SUBNET is "10.244.1.1"; want an IPv4 address with a length of at most 30, such as 10.244.1.1/24`:           replace("SUBNET=10.244.1.1/24", "SUBNET=10.244.1.1"),
		`subnet.env: line 2: key FLANNEL_SUBNET is "10.244.1.1/31"; want an IPv4 address with a length of at most 30, such as 10.244.1.1/24`:        replace("SUBNET=10.244.1.1/24", "SUBNET=10.244.1.1/31"),
		`line 2: key FLANNEL_SUBNET is "fd00::1/64"; want an IPv4`:                                                                                  replace("SUBNET=10.244.1.1/24", "SUBNET=fd00::1/64"),
		`line 1: key FLANNEL_NETWORK is "10.244.0.0/16,"; want IPv4 prefixes with ',' between them, such as 10.244.0.0/16`:                          replace("10.244.0.0/16", "10.244.0.0/16,"),
		`line 3: key FLANNEL_IPV6_NETWORK is ""; want IPv6 prefixes`:                                                                                replace("fd00:10:244::/48", ""),
		`line 3: key FLANNEL_IPV6_NETWORK is "::ffff:10.0.0.0/104"; want IPv6 prefixes`:                                                             replace("fd00:10:244::/48", "::ffff:10.0.0.0/104"),
		`line 4: key FLANNEL_IPV6_SUBNET is "fd00:10:244:1::1/127"; want an IPv6 address with a length of at most 126, such as fd00:10:244:1::1/64`: replace("1::1/64", "1::1/127"),
		`line 5: key FLANNEL_MTU is "67"; want 68 to 65535 bytes`:                                                                                   replace("1430", "67"),
		`line 5: key FLANNEL_MTU is "65536"; want 68 to 65535 bytes`:                                                                                replace("1430", "65536"),
		`line 6: key FLANNEL_IPMASQ is "yes"; want true or false`:                                                                                   replace("true", "yes"),
		`line 5 is "FLANNEL_MTU"; want KEY=VALUE`:                                                                                                   replace("=1430", ""),
		`without FLANNEL_MTU; want the file as flanneld or the node agent writes it`:                                                                replace("FLANNEL_MTU=1430\n", ""),
		`without FLANNEL_NETWORK or FLANNEL_IPV6_NETWORK, FLANNEL_SUBNET or FLANNEL_IPV6_SUBNET, FLANNEL_MTU, FLANNEL_IPMASQ; want`:                 "",
	} {
		got, err := flannel.ParseSubnetEnv([]byte(file))
		require.ErrorContains(t, err, says)
		require.Zero(t, got)
	}
}

func TestASubnetEnvThatWasCutOffIsNotRead(t *testing.T) {
	t.Parallel()
	for name, c := range subnetEnvs {
		for n := range len(c.file) - 1 { // without the last newline it is whole
			_, err := flannel.ParseSubnetEnv([]byte(c.file[:n]))
			require.Error(t, err, "%s, %d bytes", name, n)
		}
	}
}

func TestASubnetEnvThatNobodyCouldReadIsNotWritten(t *testing.T) {
	t.Parallel()
	good := subnetEnvs["dual stack"].env
	path := filepath.Join(t.TempDir(), "flannel", "subnet.env")
	require.NoError(t, flannel.WriteSubnetEnv(path, good))
	for says, change := range map[string]func(*flannel.SubnetEnv){
		"without FLANNEL_NETWORK or":                               func(e *flannel.SubnetEnv) { e.Networks = nil },
		"without FLANNEL_SUBNET or":                                func(e *flannel.SubnetEnv) { e.Subnets = nil },
		"without FLANNEL_MTU":                                      func(e *flannel.SubnetEnv) { e.MTU = 0 },
		"MTU 67: want 68 to 65535 bytes":                           func(e *flannel.SubnetEnv) { e.MTU = 67 },
		"network 10.244.0.1/16: want a prefix without host bits":   func(e *flannel.SubnetEnv) { e.Networks = prefixes("10.244.0.1/16") },
		"range 10.244.1.1/24: want a prefix without host bits":     func(e *flannel.SubnetEnv) { e.Subnets = prefixes("10.244.1.1/24") },
		"range 10.244.1.0/31: want a length of at most 30":         func(e *flannel.SubnetEnv) { e.Subnets = prefixes("10.244.1.0/31") },
		"range 10.244.2.0/24 is the second one of its family":      func(e *flannel.SubnetEnv) { e.Subnets = prefixes("10.244.1.0/24", "10.244.2.0/24") },
		"range invalid Prefix: want a prefix without host bits":    func(e *flannel.SubnetEnv) { e.Subnets = []netip.Prefix{{}} },
		"network ::ffff:1.2.3.4/128: want a prefix without host b": func(e *flannel.SubnetEnv) { e.Networks = prefixes("::ffff:1.2.3.4/128") },
	} {
		bad := good
		change(&bad)
		err := flannel.WriteSubnetEnv(path, bad)
		require.ErrorContains(t, err, says)
		require.ErrorContains(t, err, path)
		got, err := flannel.ReadSubnetEnv(path)
		require.NoError(t, err)
		require.Equal(t, good, got, "the file is as it was")
	}
}

func TestSubnetEnvIsReplacedInOneStepAndKeepsItsPermissions(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "run", "flannel")
	path := filepath.Join(dir, "subnet.env")
	_, err := flannel.ReadSubnetEnv(path)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, path)
	require.NoError(t, flannel.WriteSubnetEnv(path, subnetEnvs["IPv4"].env))
	st, err := os.Stat(path)
	require.NoError(t, err)
	require.EqualValues(t, 0o644, st.Mode().Perm())
	open, err := os.Open(path)
	require.NoError(t, err)
	defer open.Close()

	require.NoError(t, os.Chmod(path, 0o600))
	require.NoError(t, flannel.WriteSubnetEnv(path, subnetEnvs["IPv6"].env))
	st, err = os.Stat(path)
	require.NoError(t, err)
	require.EqualValues(t, 0o600, st.Mode().Perm())
	old := make([]byte, 1000)
	n, err := open.Read(old)
	require.NoError(t, err)
	require.Equal(t, subnetEnvs["IPv4"].file, string(old[:n]), "who has opened it reads what it was")
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, subnetEnvs["IPv6"].file, string(data))

	taken := filepath.Join(dir, "taken")
	require.NoError(t, os.Mkdir(taken, 0o755))
	require.Error(t, flannel.WriteSubnetEnv(taken, subnetEnvs["IPv4"].env))
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 2, "no temporary file is left")
}

func TestAHugeFileIsNoSubnetEnv(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "subnet.env")
	require.NoError(t, os.WriteFile(path, []byte(strings.Repeat("#\n", 1<<16)), 0o600))
	_, err := flannel.ReadSubnetEnv(path)
	require.ErrorContains(t, err, "it has more than 65536 bytes")
}

func FuzzParseSubnetEnv(f *testing.F) {
	for _, c := range subnetEnvs {
		f.Add([]byte(c.file))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		e, err := flannel.ParseSubnetEnv(file)
		if err != nil {
			require.Zero(t, e)
			return
		}
		require.NoError(t, e.Validate())
		again, err := flannel.ParseSubnetEnv(e.Format())
		require.NoError(t, err)
		require.Equal(t, e, again)
	})
}

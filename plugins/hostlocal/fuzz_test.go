//go:build linux

package hostlocal

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func FuzzAResolvConfGivesWordsOfItsLines(f *testing.F) {
	for _, s := range []string{"", "nameserver 192.0.2.1\n", "search a b\nsearch c", "# x\n;y\n options ndots:2 \r\n", "nameserver", "domain a b\x00", "\xff nameserver x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		dns, err := parseResolvConf(strings.NewReader(s))
		if err != nil {
			require.Greater(t, len(s), maxResolvConf)
		}
		for _, words := range [][]string{dns.Nameservers, dns.Search, dns.Options} {
			for _, w := range words {
				require.NotEmpty(t, w)
				require.Equal(t, []string{w}, strings.Fields(w))
				require.Contains(t, s, w)
			}
		}
		require.LessOrEqual(t, len(dns.Nameservers), strings.Count(s, "nameserver"))
	})
}

func TestAResolvConfThatIsNoFileIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	fifo := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	for _, path := range []string{fifo, "/dev/zero", t.TempDir()} {
		_, err := resolvConf(path)
		require.ErrorContains(t, err, path+" is not a regular file")
	}
}

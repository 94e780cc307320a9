//go:build linux

package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOnlyPagesThatAreTheFilesOwnAreDropped(t *testing.T) {
	t.Parallel()
	entry := func(head, path string, anonymous, swapped int) string {
		return fmt.Sprintf("%s 00c7f000 fe:00 10027044                           %s\nSize:   13000 kB\nRss:    9532 kB\nAnonymous:  %8d kB\nAnonHugePages:         0 kB\nSwap:       %8d kB\nSwapPss:               0 kB\nVmFlags: rd ex mr mw me\n", head, path, anonymous, swapped)
	}
	smaps := entry("00400000-0107f000 r-xp", "/opt/agent", 0, 0) + // code
		entry("0107f000-01e37000 r--p", "/opt/agent", 0, 0) + // constants
		entry("01e37000-01e40000 r--p", "/opt/agent", 4, 0) + // constants that were relocated
		entry("01f37000-01f40000 r--p", "/opt/agent", 0, 4) + // and are in swap
		entry("01e40000-01eca000 rw-p", "/opt/agent", 0, 0) + // variables
		entry("7f0000000000-7f0000001000 r--p", "/lib/other", 0, 0) +
		"c000000000-c000800000 rw-p 00000000 00:00 0 \nAnonymous:     8192 kB\nSwap:     0 kB\n" +
		"7ffc0000-7ffc1000 r-xp 00000000 00:00 0                                  [vdso]\nAnonymous:        0 kB\nSwap:     0 kB\n"
	require.Equal(t, []mapping{{0x400000, 0x107f000}, {0x107f000, 0x1e37000}}, filePages([]byte(smaps), "/opt/agent"))
	require.Empty(t, filePages(nil, "/opt/agent"))
}

func TestTrimmingDropsPagesOfTheProgram(t *testing.T) { // alone, since others bring pages back
	own := func() (kB int) {
		b, err := os.ReadFile("/proc/self/status")
		require.NoError(t, err)
		for l := range strings.Lines(string(b)) {
			_, _ = fmt.Sscanf(l, "RssFile: %d", &kB)
		}
		return kB
	}
	before := own()
	trim()
	after := own()
	t.Logf("pages of files: %d kB before, %d kB after", before, after)
	require.Less(t, after, before)
}

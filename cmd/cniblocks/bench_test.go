//go:build linux

package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkStart is a plugin's start and end: as the linker wrote its program, and as install did.
func BenchmarkStart(b *testing.B) {
	linked, _ := plugins(b)
	dir := b.TempDir()
	_, _, err := installPlugins(b.Context(), linked, dir)
	require.NoError(b, err)
	for name, program := range map[string]string{"linked": linked, "installed": filepath.Join(dir, "loopback")} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				cmd := exec.Command(program)
				cmd.Env = []string{"CNI_COMMAND=VERSION"}
				cmd.Stdin = strings.NewReader(`{"cniVersion":"1.1.0"}`)
				require.NoError(b, cmd.Run())
			}
		})
	}
}

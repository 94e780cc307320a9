// Package binaries builds this project's programs for tests that execute them.
package binaries

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
)

const module = "github.com/cniblocks/cniblocks"

var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "cniblocks-bin-")
	if err != nil {
		return "", err
	}
	// Linked and named as make install leaves them: one program under every plugin's name.
	plugins := filepath.Join(dir, ".plugins")
	args := []string{"build", "-o", plugins}
	if runtime.GOARCH == "amd64" {
		args = append(args, "-ldflags=-E="+module+"/internal/reap.entry")
	}
	cmd := exec.Command("go", append(args, module+"/plugins")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("build the plugins: %w\n%s", err, out)
	}
	names, err := exec.Command(plugins, "--list").Output()
	if err != nil {
		return dir, err
	}
	for _, name := range strings.Fields(string(names)) {
		if err := os.Link(plugins, filepath.Join(dir, name)); err != nil {
			return dir, err
		}
	}
	return dir, nil
})

var (
	mu   sync.Mutex
	made string
)

// Build returns a directory with every plugin, built once in a process. [Remove] is to be called
// at its end.
func Build() (dir string, err error) {
	mu.Lock()
	defer mu.Unlock()
	dir, err = build()
	made = dir
	return dir, err
}

// Remove removes what Build made.
func Remove() {
	mu.Lock()
	defer mu.Unlock()
	if made != "" {
		os.RemoveAll(made)
	}
}

// Package binaries builds this project's programs for tests that execute them.
package binaries

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

const module = "github.com/cniblocks/cniblocks"

var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "cniblocks-bin-")
	if err != nil {
		return "", err
	}
	// Links as make install leaves them: one program under every plugin's name.
	plugins := filepath.Join(dir, ".plugins")
	for path, pkg := range map[string]string{plugins: "/plugins"} {
		cmd := exec.Command("go", "build", "-o", path, module+pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return dir, fmt.Errorf("build %s: %w\n%s", pkg, err, out)
		}
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

// Build returns a directory with every plugin and the program cniblocks, built once in a process. [Remove] is to be called
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

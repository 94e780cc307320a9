// Package binaries builds this project's programs for tests that execute them.
package binaries

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
)

const module = "github.com/cniblocks/cniblocks"

// The environment names what is built already: a directory with the plugins, and the program cniblocks, both as make build
// leaves them. Each package that needs them takes seconds to build them, and minutes under emulation.
const (
	PluginsEnv = "CNIBLOCKS_PLUGINS"
	CommandEnv = "CNIBLOCKS_COMMAND"
)

var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "cniblocks-bin-")
	if err != nil {
		return "", err
	}
	// Linked and named as make install leaves them: one program under every plugin's name.
	plugins := filepath.Join(dir, ".plugins")
	var flags string
	if runtime.GOARCH == "amd64" {
		flags = "-E=" + module + "/internal/base/start.entry"
	}
	if err := compile(plugins, "/plugins", flags); err != nil {
		return dir, err
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
	return dir, compile(filepath.Join(dir, "dhcp"), "/plugins/dhcp/program", "")
})

var command = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "cniblocks-command-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "cniblocks")
	return path, compile(path, "/cmd/cniblocks", "")
})

// compile builds a static program, as make build does, with further flags of the linker.
func compile(path, pkg, flags string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w "+flags, "-o", path, module+pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return nil
}

var (
	mu   sync.Mutex
	made []string // directories
)

// Build returns a directory with every plugin, built once in a process, or the one that [PluginsEnv] names. [Remove] is
// to be called at its end.
func Build() (dir string, err error) {
	if dir := os.Getenv(PluginsEnv); dir != "" {
		_, err := os.Stat(filepath.Join(dir, "bridge"))
		return dir, err
	}
	mu.Lock()
	defer mu.Unlock()
	dir, err = build()
	made = append(made, dir)
	return dir, err
}

// Command returns the path of the program cniblocks, built once in a process, or what [CommandEnv] says. [Remove] is to be
// called at its end.
func Command() (path string, err error) {
	if path := os.Getenv(CommandEnv); path != "" {
		_, err := os.Stat(path)
		return path, err
	}
	mu.Lock()
	defer mu.Unlock()
	path, err = command()
	if path != "" {
		made = append(made, filepath.Dir(path))
	}
	return path, err
}

// Export builds both and has the environment name them, for the processes that this one starts.
func Export() error {
	dir, err := Build()
	if err != nil {
		return err
	}
	path, err := Command()
	if err != nil {
		return err
	}
	return errors.Join(os.Setenv(PluginsEnv, dir), os.Setenv(CommandEnv, path))
}

// Remove removes what Build and Command made.
func Remove() {
	mu.Lock()
	defer mu.Unlock()
	for _, dir := range made {
		if dir != "" {
			os.RemoveAll(dir)
		}
	}
}

//go:build linux

// Package reference builds the programs that cniblocks is measured and tested against: the plugins of
// containernetworking/plugins and cnitool, from their Go modules, static.
//
// It needs the go command, and on the first call either the modules in the module cache or a module proxy in reach, so
// call it before entering a network namespace without a way out. For tests and benchmarks only.
package reference

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/internal/test/gobuild"
)

// Version is the version of containernetworking/plugins that Build builds.
const Version = "v1.9.1"

// CNIVersion is the version of containernetworking/cni whose cnitool Build builds.
const CNIVersion = "v1.3.1"

// FlannelVersion is the version of containernetworking/plugins whose plugin flannel Build builds: the last one that had
// it. The plugin lives on in a module of its own, with the same files and the same netconf.
const FlannelVersion = "v0.9.1"

const (
	pluginsModule = "github.com/containernetworking/plugins/plugins/"
	cniModule     = "github.com/containernetworking/cni/"
)

// packages maps the name of a program to its import path.
var packages = map[string]string{
	"bridge": pluginsModule + "main/bridge", "dummy": pluginsModule + "main/dummy",
	"host-device": pluginsModule + "main/host-device", "ipvlan": pluginsModule + "main/ipvlan",
	"loopback": pluginsModule + "main/loopback", "macvlan": pluginsModule + "main/macvlan",
	"ptp": pluginsModule + "main/ptp", "tap": pluginsModule + "main/tap", "vlan": pluginsModule + "main/vlan",
	"dhcp": pluginsModule + "ipam/dhcp", "host-local": pluginsModule + "ipam/host-local",
	"static": pluginsModule + "ipam/static", "bandwidth": pluginsModule + "meta/bandwidth",
	"firewall": pluginsModule + "meta/firewall", "portmap": pluginsModule + "meta/portmap",
	"flannel": pluginsModule + "meta/flannel", "sbr": pluginsModule + "meta/sbr", "tuning": pluginsModule + "meta/tuning", "vrf": pluginsModule + "meta/vrf",
	"cnitool": cniModule + "cnitool",
}

// Names lists what Build can build, sorted.
func Names() []string {
	names := make([]string, 0, len(packages))
	for name := range packages {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Build returns a directory that holds at least the named programs, ready for CNI_PATH; without names it is all of
// [Names]. What is missing is built first, and kept in [os.UserCacheDir] for the next call. Several processes may call it
// at once: one builds, the others wait, and no program is ever seen half written.
func Build(names ...string) (dir string, err error) {
	if len(names) == 0 {
		names = Names()
	}
	for _, name := range names {
		if packages[name] == "" {
			return "", fmt.Errorf("reference program %q is not known: use one of %s", name, strings.Join(Names(), ", "))
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache directory for the reference programs (set HOME or XDG_CACHE_HOME): %w", err)
	}
	return buildIn(filepath.Join(cache, "cniblocks", "reference-"+Version, toolchain()), names)
}

// toolchain names what besides the version decides what a program looks like.
func toolchain() string {
	version, _, _ := strings.Cut(runtime.Version(), " ")
	return version + "-" + runtime.GOARCH
}

// buildIn puts the named programs in dir, where they are not there yet.
func buildIn(dir string, names []string) (string, error) {
	if missing, err := missingIn(dir, names); err != nil || len(missing) == 0 {
		return dir, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("reference programs: %w", err)
	}
	unlock, err := gobuild.Lock(filepath.Join(dir, ".lock"))
	if err != nil {
		return "", fmt.Errorf("reference programs: %w", err)
	}
	defer unlock()
	missing, err := missingIn(dir, names)
	if err != nil || len(missing) == 0 {
		return dir, err
	}
	if err := install(dir, missing); err != nil {
		return "", err
	}
	return dir, nil
}

func missingIn(dir string, names []string) (missing []string, err error) {
	for _, name := range names {
		_, err := os.Stat(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, name)
		} else if err != nil {
			return nil, fmt.Errorf("reference programs: %w", err)
		}
	}
	return missing, nil
}

// install builds the named programs beside dir's and moves them in by rename.
func install(dir string, names []string) error {
	tmp, err := os.MkdirTemp(dir, ".build-")
	if err != nil {
		return fmt.Errorf("reference programs: %w", err)
	}
	defer os.RemoveAll(tmp)

	// The go command takes packages of one module at a time.
	modules := map[string][]string{}
	for _, name := range names {
		v := Version
		switch {
		case strings.HasPrefix(packages[name], cniModule):
			v = CNIVersion
		case name == "flannel":
			v = FlannelVersion
		}
		modules[v] = append(modules[v], packages[name]+"@"+v)
	}
	for _, pkgs := range modules {
		if err := goInstall(tmp, pkgs); err != nil {
			return err
		}
	}
	for _, name := range names {
		if err := os.Rename(filepath.Join(tmp, name), filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("reference programs: %w", err)
		}
	}
	return nil
}

func goInstall(bin string, pkgs []string) error {
	_, err := gobuild.Go(bin, append([]string{"install", "-trimpath", "-ldflags", "-s -w"}, pkgs...)...)
	return err
}

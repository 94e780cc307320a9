//go:build linux

package crash_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/test/binaries"
	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/plugins/bridge"
	"github.com/cniblocks/cniblocks/plugins/flannel"
	"github.com/cniblocks/cniblocks/plugins/hostlocal"
	"github.com/cniblocks/cniblocks/plugins/overlay"
)

var (
	all      = flag.Bool("all", false, "try every change, each in every way; else some of them")
	verbs    = flag.Bool("verbs", false, "try every verb with what few kernels have, too; -all does")
	tableOut = flag.String("table", "", "put what was tried into the table in this file")
)

func TestMain(m *testing.M) {
	if name := filepath.Base(os.Args[0]); plugins[name] != nil {
		cni.Main(plugins[name], plugins)
	}
	if conf := os.Getenv(upEnv); conf != "" {
		os.Exit(up(conf))
	}
	nstest.Main(m, binaries.Remove, writeTable)
}

// plugins are what this binary is when it is called by their names, which it is where building programs takes too long.
var plugins = cni.Delegates{"bridge": bridge.Plugin{}, "host-local": hostlocal.Plugin{}, "overlay": overlay.Plugin{}, "host-gw": overlay.Plugin{}, "flannel": flannel.Plugin{}}

// upEnv names a configuration that this binary is to apply, as `cniblocks overlay up` does, in place of the tests.
const upEnv = "CNIBLOCKS_CRASH_UP"

func up(conf string) int {
	ns, err := netns.Current()
	if err == nil {
		_, err = overlay.Up(context.Background(), ns, []byte(conf))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// programs is a directory with the plugins.
func programs(t *testing.T) string {
	t.Helper()
	if !emulated || os.Getenv(binaries.PluginsEnv) != "" {
		bin, err := binaries.Build()
		if err != nil {
			t.Fatal(err)
		}
		return bin
	}
	dir, self := t.TempDir(), ""
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name := range plugins {
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

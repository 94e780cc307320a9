//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/cniblocks/cniblocks/cni"
)

func version(_ context.Context, args []string, out, errs io.Writer) int {
	o := newOptions("version", "Usage: cniblocks version\n\nPrints the version, the commit that it was built from, and the versions of CNI that the plugins\nspeak.\n")
	if _, status, done := o.read(args, 0, out, errs); done {
		return status
	}
	v, commit := "(devel)", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "" {
			v = info.Main.Version
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = ", commit " + s.Value[:min(12, len(s.Value))]
			}
		}
	}
	fmt.Fprintf(out, "cniblocks %s%s, %s %s/%s\nCNI %s to %s\n", v, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH,
		cni.Versions[0], cni.Versions[len(cni.Versions)-1])
	return 0
}

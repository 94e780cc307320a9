//go:build linux

package main

import (
	"context"
	"fmt"
	"io"

	"github.com/cniblocks/cniblocks/cni"
	build "github.com/cniblocks/cniblocks/internal/base/version"
)

func version(_ context.Context, args []string, out, errs io.Writer) int {
	o := newOptions("version", "Usage: cniblocks version\n\nPrints the version, the commit that it was built from, and the versions of CNI that the plugins\nspeak.\n")
	if _, status, done := o.read(args, 0, out, errs); done {
		return status
	}
	fmt.Fprintf(out, "cniblocks %s\nCNI %s to %s\n", build.String(), cni.Versions[0], cni.Versions[len(cni.Versions)-1])
	return 0
}

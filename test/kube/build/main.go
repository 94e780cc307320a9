//go:build linux

// Command build builds the programs that the tests of peer/kube and test/kube run, where they are not there yet, and prints
// where they are: those of Kubernetes, or the ones of them that its arguments name; without arguments also containerd 2 and
// flanneld. Tests build them as well, when they miss them; this is for doing it beforehand.
package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cniblocks/cniblocks/internal/test/kubetest"
	"github.com/cniblocks/cniblocks/internal/test/reference"
)

func main() {
	err := build("Kubernetes "+kubetest.Version, func() (string, error) { return kubetest.Binaries(os.Args[1:]...) })
	if len(os.Args) == 1 {
		err = errors.Join(err,
			build("containerd "+reference.ContainerdVersion, reference.Containerd),
			build("flannel "+reference.FlanneldVersion, reference.Flannel))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "kube:", err)
		os.Exit(1)
	}
}

func build(what string, how func() (dir string, err error)) error {
	begin := time.Now()
	dir, err := how()
	if err == nil {
		fmt.Printf("%s is in %s (%s)\n", what, dir, time.Since(begin).Round(time.Second))
	}
	return err
}

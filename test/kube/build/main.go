//go:build linux

// Command build builds the programs of Kubernetes that the tests of peer/kube and test/kube run, where they are not
// there yet, and prints where they are. Tests build them as well, when they miss them; this is for doing it beforehand.
package main

import (
	"fmt"
	"os"
	"time"

	"github.com/cniblocks/cniblocks/internal/kubetest"
)

func main() {
	begin := time.Now()
	dir, err := kubetest.Binaries(os.Args[1:]...)
	if err != nil {
		fmt.Fprintln(os.Stderr, "kube:", err)
		os.Exit(1)
	}
	fmt.Printf("Kubernetes %s is in %s (%s)\n", kubetest.Version, dir, time.Since(begin).Round(time.Second))
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// kubetest is the package by which tests get the programs of Kubernetes.
const kubetest = "/internal/test/kubetest"

// split parts the packages whose tests need the programs of Kubernetes from the others. Building those takes minutes, in
// which the other tests can run.
func (s *suite) split(ctx context.Context) (others, kube []string, err error) {
	const format = `{{.ImportPath}}{{range .TestImports}} {{.}}{{end}}{{range .XTestImports}} {{.}}{{end}}`
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-f", format}, s.packages...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, nil, fmt.Errorf("go list: %w", err)
	}
	others, kube = parted(string(out))
	return others, kube, nil
}

// lengthy are the ends of the import paths of packages that take minutes, here or in the virtual machine.
var lengthy = []string{"/test/crash", "/test/agent", "/overlay", "/test/soak", "/peer/etcd"}

// parted reads lines of a package and what its tests import. The lengthy ones of the others come first, so that none of them
// runs alone in the end.
func parted(list string) (others, kube []string) {
	var first []string
	for line := range strings.Lines(list) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		switch {
		case slices.ContainsFunc(words[1:], func(w string) bool { return strings.HasSuffix(w, kubetest) }):
			kube = append(kube, words[0])
		case slices.ContainsFunc(lengthy, func(end string) bool { return strings.HasSuffix(words[0], end) }):
			first = append(first, words[0])
		default:
			others = append(others, words[0])
		}
	}
	return slices.Concat(first, others), kube
}

// buildKube begins to build the programs of Kubernetes, where they are not there yet, behind the tests. wait returns when
// they are.
func (s *suite) buildKube(ctx context.Context) (wait func() error) {
	cmd := exec.CommandContext(ctx, "nice", "go", "run", "./test/kube/build")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Start()
	return func() error {
		if err == nil {
			err = cmd.Wait()
		}
		fmt.Print(out.String())
		return err
	}
}

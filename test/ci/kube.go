package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// kubetest is the package by which tests get the programs of Kubernetes.
const kubetest = "/internal/test/kubetest"

// split parts the packages whose tests need the programs of Kubernetes from the others.
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
var lengthy = []string{"/overlay", "/test/agent", "/cmd/cniblocks", "/test/crash", "/plugins/bridge", "/test/soak", "/peer/etcd"}

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

// errKube says that the programs of Kubernetes are not there.
var errKube = errors.New("no programs of Kubernetes")

// clusters tests packages that need the programs of Kubernetes, one after the other. Without such packages there is no lane.
func (s *suite) clusters(ctx context.Context, packages []string, ended func(l *lane, pkg string)) (*lane, error) {
	if len(packages) == 0 {
		return nil, nil
	}
	if err := buildKube(ctx); err != nil {
		return nil, err
	}
	args := []string{"-p=1"}
	if s.race {
		args = append(args, "-race")
	}
	return s.lane(ctx, "kube", nil, append(args, packages...), ended)
}

// buildKube builds the programs of Kubernetes, where they are not there yet.
func buildKube(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "nice", "go", "run", "./test/kube/build").CombinedOutput()
	fmt.Print(string(out))
	if err != nil {
		return fmt.Errorf("%w: %w", errKube, err)
	}
	return nil
}

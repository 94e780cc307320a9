// Command modules does what go.work hides from the go command: it serves the Go modules of this tree as a module proxy
// would, at the version by which they require each other, whether or not that version was ever published.
//
//	go run ./test/modules tidy                          go mod tidy, in every module
//	go run ./test/modules -C peer/kube get MODULE@v1    any go command in one module, with GOWORK=off
//	go run ./test/modules release v0.2.0                makes the tree ready for the tags of a version
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "modules:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	t, err := readTree(".")
	if err != nil {
		return err
	}
	switch {
	case len(args) == 1 && args[0] == "tidy":
		for _, m := range t {
			if err := t.outside(m, "mod", "tidy"); err != nil {
				return err
			}
		}
		return nil
	case len(args) > 2 && args[0] == "-C":
		i := slices.IndexFunc(t, func(m *mod) bool { return m.dir == path.Clean(args[1]) })
		if i < 0 {
			return fmt.Errorf("-C %s: go.work does not name this directory", args[1])
		}
		return t.outside(t[i], args[2:]...)
	case len(args) == 2 && args[0] == "release":
		if err := clean(); err != nil {
			return err
		}
		if err := t.release(args[1]); err != nil {
			return err
		}
		fmt.Printf("git commit -am 'release %s'\n", args[1])
		var tags []string
		for _, m := range t.published() {
			tag := path.Join(m.dir, args[1])
			tags = append(tags, tag)
			fmt.Println("git tag", tag)
		}
		fmt.Println("git push --atomic origin HEAD", strings.Join(tags, " "))
		return nil
	}
	return errors.New("usage: modules tidy | modules -C DIR ARGUMENTS-OF-GO | modules release VERSION")
}

// clean reports whether all files here, but for what make leaves in bin and out, are in the commit: a sum covers what is
// there.
func clean() error {
	out, err := exec.Command("git", "status", "--porcelain", "--ignored").Output()
	if err != nil {
		return fmt.Errorf("git status: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); line != "!! bin/" && line != "!! out/" {
			return fmt.Errorf("not in the commit: %s", line)
		}
	}
	return nil
}

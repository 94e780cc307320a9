package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// environ is an environment in which the go command knows no workspace, and finds the tree's modules in the directory that
// [tree.serve] has written, all else in the module cache or where it is configured to look. What it downloads and unpacks
// goes into cache, so that none of the tree's modules stays behind as the version that it was served as.
func environ(root *mod, proxy, cache string) ([]string, error) {
	out, err := exec.Command("go", "env", "GOMODCACHE", "GOPROXY").Output()
	if err != nil {
		return nil, fmt.Errorf("go env: %w", err)
	}
	configured := strings.Fields(string(out))
	if len(configured) != 2 {
		return nil, fmt.Errorf("go env GOMODCACHE GOPROXY: got %q", out)
	}
	return append(os.Environ(), "GOWORK=off", "GOFLAGS=-modcacherw", "GOMODCACHE="+cache,
		"GOPROXY=file://"+proxy+",file://"+filepath.Join(configured[0], "cache", "download")+","+configured[1],
		"GOENV=off", "GOPRIVATE=", "GONOPROXY=", "GONOSUMDB="+root.path()), nil
}

// outside runs the go command in one module as it would run outside of the tree. The lines of go.sum for the tree's own
// modules stay as they are: they are those of a published version.
func (t tree) outside(m *mod, args ...string) (err error) {
	version, err := t.version()
	if err != nil {
		return err
	}
	if m.dir == tests {
		version += "-tests" // it excludes the other one
	}
	tmp, err := os.MkdirTemp("", "cniblocks-modules-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	proxy := filepath.Join(tmp, "proxy")
	if err := t.serve(proxy, version); err != nil {
		return err
	}
	env, err := environ(t[0], proxy, filepath.Join(tmp, "cache"))
	if err != nil {
		return err
	}
	own, err := t.swapOwnSums(m, nil)
	if err != nil {
		return err
	}
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Env = m.at(""), env
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	fmt.Fprintf(os.Stderr, "in %s: %s\n", m.dir, strings.Join(cmd.Args, " "))
	err = cmd.Run()
	if err != nil {
		err = fmt.Errorf("in %s: go %s: %w", m.dir, args[0], err)
	}
	_, restored := t.swapOwnSums(m, own)
	if m.dir == tests {
		restored = errors.Join(restored, t.isolate(m))
	}
	return errors.Join(err, restored)
}

// isolate leaves the module of the tests without requirements of the others, which it finds in the workspace.
func (t tree) isolate(m *mod) error {
	if err := m.read(); err != nil {
		return err
	}
	for _, r := range t.required(m) {
		if err := m.file.DropRequire(r.Path); err != nil {
			return err
		}
	}
	return m.write()
}

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
	"golang.org/x/mod/sumdb/dirhash"
	"golang.org/x/mod/zip"
)

// mod is a module of the tree.
type mod struct {
	root string // of the tree
	dir  string // below root, with slashes; "." for the module at root
	file *modfile.File
}

// tree has each module after those that it requires.
type tree []*mod

// tests is the directory of the module that is never published. It excludes the version by which the others require each
// other: in a workspace, that counts for all, and spares the go command from asking for what may not be published yet.
const tests = "test"

func readTree(root string) (tree, error) {
	data, err := os.ReadFile(filepath.Join(root, "go.work"))
	if err != nil {
		return nil, err
	}
	work, err := modfile.ParseWork("go.work", data, nil)
	if err != nil {
		return nil, err
	}
	var t tree
	for _, u := range work.Use {
		m := &mod{root: root, dir: path.Clean(u.Path)}
		if err := m.read(); err != nil {
			return nil, err
		}
		t = append(t, m)
	}
	// A go.mod lists everything that is needed, not only what is imported by the module's own packages.
	slices.SortStableFunc(t, func(a, b *mod) int { return len(t.required(a)) - len(t.required(b)) })
	return t, nil
}

func (m *mod) path() string { return m.file.Module.Mod.Path }

func (m *mod) at(name string) string { return filepath.Join(m.root, filepath.FromSlash(m.dir), name) }

func (m *mod) read() error {
	data, err := os.ReadFile(m.at("go.mod"))
	if err != nil {
		return err
	}
	m.file, err = modfile.Parse(m.at("go.mod"), data, nil)
	return err
}

func (m *mod) write() error {
	m.file.Cleanup()
	data, err := m.file.Format()
	if err != nil {
		return err
	}
	return os.WriteFile(m.at("go.mod"), data, 0o644)
}

// published are the modules that get a tag.
func (t tree) published() tree {
	return slices.DeleteFunc(slices.Clone(t), func(m *mod) bool { return m.dir == tests })
}

// has reports whether the module of that path is one of the tree.
func (t tree) has(path string) bool {
	return slices.ContainsFunc(t, func(m *mod) bool { return m.path() == path })
}

// required are the versions of the tree's modules that one of them requires.
func (t tree) required(m *mod) (out []module.Version) {
	for _, r := range m.file.Require {
		if t.has(r.Mod.Path) {
			out = append(out, r.Mod)
		}
	}
	return out
}

// version is the one by which the modules require each other.
func (t tree) version() (version string, err error) {
	for _, m := range t {
		for _, r := range t.required(m) {
			if version != "" && r.Version != version {
				return "", fmt.Errorf("%s: %s is required at %s, others are at %s", m.at("go.mod"), r.Path, r.Version, version)
			}
			version = r.Version
		}
	}
	if version == "" {
		return "", errors.New("go.work: none of its modules requires another one")
	}
	return version, nil
}

// release makes the modules require each other at a version, with the sums of what the tags of this version will publish.
func (t tree) release(version string) error {
	if !semver.IsValid(version) || semver.Canonical(version) != version {
		return fmt.Errorf("version %q: want one such as v1.2.3", version)
	}
	sums := map[string][]string{}
	for _, m := range t {
		var own []string
		for _, r := range t.required(m) {
			if err := m.file.AddRequire(r.Path, version); err != nil {
				return err
			}
			own = append(own, sums[r.Path]...)
		}
		for _, x := range m.file.Exclude {
			if t.has(x.Mod.Path) {
				x.Syntax.Token[len(x.Syntax.Token)-1] = version
			}
		}
		if err := m.write(); err != nil {
			return err
		}
		if _, err := t.swapOwnSums(m, own); err != nil {
			return err
		}
		var err error
		if sums[m.path()], err = m.sums(version); err != nil {
			return err
		}
	}
	return nil
}

// swapOwnSums replaces the lines of go.sum that are of the tree's modules, and returns those that were there.
func (t tree) swapOwnSums(m *mod, lines []string) (before []string, err error) {
	data, err := os.ReadFile(m.at("go.sum"))
	if err != nil {
		return nil, err
	}
	all := slices.Clone(lines)
	for line := range strings.Lines(string(data)) {
		if name, _, _ := strings.Cut(line, " "); t.has(name) {
			before = append(before, line)
		} else {
			all = append(all, line)
		}
	}
	slices.Sort(all)
	return before, os.WriteFile(m.at("go.sum"), []byte(strings.Join(all, "")), 0o644)
}

// sums are the lines of go.sum for the module at a version.
func (m *mod) sums(version string) ([]string, error) {
	f, err := os.CreateTemp("", "cniblocks-zip-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := m.pack(f, version); err != nil {
		return nil, err
	}
	whole, err := dirhash.HashZip(f.Name(), dirhash.Hash1)
	if err != nil {
		return nil, err
	}
	alone, err := dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser, error) { return os.Open(m.at("go.mod")) })
	if err != nil {
		return nil, err
	}
	return []string{
		fmt.Sprintf("%s %s %s\n", m.path(), version, whole),
		fmt.Sprintf("%s %s/go.mod %s\n", m.path(), version, alone),
	}, nil
}

// pack writes the module's zip file as the go command makes it from a tag, with the tree's license.
func (m *mod) pack(w io.Writer, version string) error {
	files, err := m.files()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(files, func(f zip.File) bool { return f.Path() == "LICENSE" }) {
		files = append(files, file{"LICENSE", filepath.Join(m.root, "LICENSE")})
	}
	return zip.Create(w, module.Version{Path: m.path(), Version: version}, files)
}

// files are those of the module, less what make leaves in bin and out.
func (m *mod) files() (files []zip.File, err error) {
	err = filepath.WalkDir(m.at(""), func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(m.at(""), name)
		switch {
		case err != nil || rel == ".":
			return err
		case rel == ".git": // a file, in a further worktree
			if d.IsDir() {
				return fs.SkipDir
			}
		case d.IsDir():
			_, err := os.Stat(filepath.Join(name, "go.mod"))
			if err == nil || m.dir == "." && (rel == "bin" || rel == "out") {
				return fs.SkipDir
			}
		case d.Type().IsRegular():
			files = append(files, file{filepath.ToSlash(rel), name})
		}
		return nil
	})
	return files, err
}

// file is one of a module: its path there, and its name here.
type file struct{ path, name string }

func (f file) Path() string                 { return f.path }
func (f file) Lstat() (fs.FileInfo, error)  { return os.Lstat(f.name) }
func (f file) Open() (io.ReadCloser, error) { return os.Open(f.name) }

// serve writes what a module proxy would answer: see `go help goproxy`.
func (t tree) serve(dir, version string) error {
	for _, m := range t.published() {
		escaped, err := module.EscapePath(m.path())
		if err != nil {
			return err
		}
		at := filepath.Join(dir, filepath.FromSlash(escaped), "@v")
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		goMod, err := os.ReadFile(m.at("go.mod"))
		if err != nil {
			return err
		}
		var zipped bytes.Buffer
		if err := m.pack(&zipped, version); err != nil {
			return err
		}
		for name, data := range map[string][]byte{
			"list":            []byte(version + "\n"),
			version + ".info": fmt.Appendf(nil, `{"Version": %q}`, version),
			version + ".mod":  goMod,
			version + ".zip":  zipped.Bytes(),
		} {
			if err := os.WriteFile(filepath.Join(at, name), data, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

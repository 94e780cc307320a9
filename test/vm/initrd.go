//go:build linux

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// bootModules are what the guest needs to reach the host's files; the rest it loads from there.
var bootModules = []string{"virtio_pci", "virtiofs", "virtio_console", "overlay"}

// ensureInitrd makes an initramfs of this executable and a few modules, and keeps it until either is newer.
func ensureInitrd(k kernel) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	dir, err := cacheDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "initrd-"+k.version)
	if newer(path, self, filepath.Join(k.modules, "modules.dep")) {
		return path, nil
	}
	init, err := os.ReadFile(self)
	if err != nil {
		return "", err
	}
	files := []file{{name: "init", mode: 0o100755, data: init}}
	for _, d := range []string{"dev", "proc", "host", "rw", "new", "modules"} {
		files = append(files, file{name: d, mode: 0o040755})
	}
	modules, err := readModules(k.modules)
	if err != nil {
		return "", err
	}
	files = append(files, modules...)
	tmp, err := os.CreateTemp(dir, "initrd-*.tmp")
	if err != nil {
		return "", err
	}
	defer os.Remove(tmp.Name())
	w := bufio.NewWriter(tmp)
	writeCPIO(w, files)
	if err := w.Flush(); err != nil {
		return "", err
	}
	if err := tmp.Close(); err != nil {
		return "", err
	}
	return path, os.Rename(tmp.Name(), path)
}

func newer(path string, than ...string) bool {
	st, err := os.Stat(path)
	if err != nil {
		return false
	}
	return !slices.ContainsFunc(than, func(p string) bool {
		other, err := os.Stat(p)
		return err != nil || !other.ModTime().Before(st.ModTime())
	})
}

// readModules returns the boot modules and what they depend on, in the order of loading, which their names tell.
func readModules(dir string) ([]file, error) {
	dep, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, err
	}
	var out []file
	for _, path := range loadOrder(string(dep), bootModules) {
		data, err := readModule(filepath.Join(dir, path))
		if err != nil {
			return nil, err
		}
		out = append(out, file{name: fmt.Sprintf("modules/%02d-%s", len(out), moduleName(path)), mode: 0o100644, data: data})
	}
	return out, nil
}

// loadOrder reads a modules.dep(5): each line has a module's path, a colon, and what it depends on, the most basic last.
// A wanted module that is not there is built in.
func loadOrder(dep string, want []string) []string {
	lines := map[string][]string{}
	for line := range strings.Lines(dep) {
		path, needs, _ := strings.Cut(strings.TrimSpace(line), ":")
		needed := strings.Fields(needs)
		slices.Reverse(needed)
		lines[moduleName(path)] = append(needed, path)
	}
	var order []string
	for _, w := range want {
		for _, path := range lines[w] {
			if !slices.Contains(order, path) {
				order = append(order, path)
			}
		}
	}
	return order
}

func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".")
	return strings.ReplaceAll(name, "-", "_")
}

func readModule(path string) ([]byte, error) {
	var unpack string
	switch filepath.Ext(path) {
	case ".xz":
		unpack = "xz"
	case ".zst":
		unpack = "zstd"
	case ".gz":
		unpack = "gzip"
	default:
		return os.ReadFile(path)
	}
	out, err := exec.Command(unpack, "-dc", path).Output()
	if err != nil {
		return nil, fmt.Errorf("%s -dc %s: %w", unpack, path, err)
	}
	return out, nil
}

type file struct {
	name string
	mode uint32 // as in stat(2)
	data []byte
}

// writeCPIO writes an archive in the "newc" form that the kernel takes as an initramfs. w keeps its first error.
func writeCPIO(w io.Writer, files []file) {
	for i, f := range append(files, file{name: "TRAILER!!!"}) {
		var b bytes.Buffer
		b.WriteString("070701")
		for _, v := range []int{i + 1, int(f.mode), 0, 0, 1, 0, len(f.data), 0, 0, 0, 0, len(f.name) + 1, 0} {
			fmt.Fprintf(&b, "%08x", v)
		}
		b.WriteString(f.name)
		b.WriteByte(0)
		pad(&b)
		b.Write(f.data)
		pad(&b)
		_, _ = w.Write(b.Bytes())
	}
}

func pad(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}

//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const installText = `Usage: cniblocks install --dir DIR [OPTIONS]

Puts the plugins into a directory for CNI plugins: one file under all their names, and a copy of it called
flannel, since the DaemonSet of flannel overwrites the file of that name. Each name is replaced in one step, so
that a runtime finds the old plugin or the new one at any moment. What is there already is not written again. Files of
other names stay as they are. Plugins that were installed, or found up to date, by this command since the machine's last
boot start a quarter faster than others: the kernel has them in large pages.

With --forward it also makes this machine a router, which an agent that runs in a container without privileges cannot.

  sudo cniblocks install --dir /opt/cni/bin
`

const flannelPlugin = "flannel"

// pluginProgram is the program of all plugins, beside this one, as images have it.
const pluginProgram = "cniblocks-plugins"

func install(ctx context.Context, args []string, out, errs io.Writer) int {
	o := newOptions("install", installText)
	dir := o.String("dir", "", "`DIR` for the plugins; needed")
	from := o.String("from", "", "the `FILE` that is the plugins; default: "+pluginProgram+" beside this program")
	forward := o.String("forward", "", "switch on forwarding for these `FAMILIES`: ipv4, ipv6 or ipv4,ipv6")
	parameters := o.String("sysctl-dir", "/proc/sys/net", "`DIR` where the kernel's parameters are mounted, for --forward")
	if _, status, done := o.read(args, 0, out, errs); done {
		return status
	}
	if *dir == "" {
		fmt.Fprintln(errs, "cniblocks install: want --dir DIR, /opt/cni/bin for most runtimes; 'cniblocks install --help' explains")
		return misuse
	}
	names, written, err := installPlugins(ctx, *from, *dir)
	if err != nil {
		return complain(errs, "install", err)
	}
	if err := switchForwarding(*forward, *parameters); err != nil {
		return complain(errs, "install", err)
	}
	if !written {
		fmt.Fprintf(out, "up to date in %s: %s\n", *dir, strings.Join(names, " "))
		return 0
	}
	fmt.Fprintf(out, "installed in %s: %s\n", *dir, strings.Join(names, " "))
	return 0
}

// installPlugins puts the plugins of the program from into dir, and reports whether that took a write.
func installPlugins(ctx context.Context, from, dir string) (names []string, written bool, err error) {
	if from == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, false, err
		}
		from = filepath.Join(filepath.Dir(self), pluginProgram)
	}
	list, err := exec.CommandContext(ctx, from, "--list").Output()
	if err != nil {
		return nil, false, fmt.Errorf("%s is not the program of the plugins: %w; state it by --from", from, err)
	}
	names = strings.Fields(string(list))
	if len(names) == 0 {
		return nil, false, fmt.Errorf("%s is not the program of the plugins: it lists none; state it by --from", from)
	}
	for _, name := range names {
		if name != filepath.Base(name) || strings.HasPrefix(name, ".") {
			return nil, false, fmt.Errorf("%s lists a plugin %q, which is no name for a file", from, name)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, false, err
	}
	program, err := os.ReadFile(from)
	if err != nil {
		return nil, false, err
	}
	for _, one := range files(names) {
		ok, err := installed(program, dir, one)
		if err == nil && !ok {
			written, err = true, place(program, dir, one)
		}
		if err != nil {
			return nil, false, err
		}
	}
	return names, written, nil
}

// files parts the names into those that become links to one file each. flannel is a file of its own: the DaemonSet of
// flannel copies its plugin into the file that is there, which would change every name that is a link to it.
func files(names []string) (out [][]string) {
	rest := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		if name == flannelPlugin {
			out = append(out, []string{name})
		}
		return name == flannelPlugin
	})
	if len(rest) > 0 {
		out = append(out, rest)
	}
	return out
}

// installed reports whether all names, and nothing else, are links to one file with the program's bytes.
func installed(program []byte, dir string, names []string) (bool, error) {
	var first fs.FileInfo
	for _, name := range names {
		info, err := os.Lstat(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if first == nil {
			first = info
		}
		if !info.Mode().IsRegular() || info.Mode().Perm() != 0o755 || !os.SameFile(first, info) || links(info) != len(names) {
			return false, nil
		}
	}
	path := filepath.Join(dir, names[0])
	load(path, len(program))
	have, err := os.ReadFile(path)
	return bytes.Equal(have, program), err
}

// links is how many names a file has.
func links(info fs.FileInfo) int {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	return int(st.Nlink)
}

// load reads a program into the kernel's cache anew, in pages as large as it has. Read as it is executed, as after a boot,
// it comes in small ones, and each of its starts takes a quarter longer for as long as it stays there. It is a matter of
// time alone: what does not work is left as it was.
func load(path string, size int) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	fd := int(f.Fd())
	_ = unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED)
	b, err := unix.Mmap(fd, 0, size, unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return
	}
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
	_ = unix.Madvise(b, unix.MADV_POPULATE_READ)
	_ = unix.Munmap(b)
}

// place writes the program beside its names, at once, which leaves it in the kernel's cache as [load] would, and moves a
// link to it over each of them.
func place(program []byte, dir string, names []string) (err error) {
	to, err := os.CreateTemp(dir, ".cniblocks-")
	if err != nil {
		return err
	}
	defer os.Remove(to.Name())
	defer to.Close()
	if _, err := to.Write(program); err != nil {
		return err
	}
	if err := errors.Join(to.Chmod(0o755), to.Sync(), to.Close()); err != nil {
		return err
	}
	for _, name := range names {
		link := to.Name() + "." + name
		if err := os.Link(to.Name(), link); err != nil {
			return err
		}
		if err := os.Rename(link, filepath.Join(dir, name)); err != nil {
			_ = os.Remove(link)
			return err
		}
		_ = os.Remove(link) // rename(2) leaves it where both are one file already
	}
	return nil
}

//go:build linux

package inventory

import (
	"cmp"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/cniblocks/cniblocks/netns"
)

// pinDirs are where runtimes pin the namespaces of pods.
var pinDirs = []string{netns.Dir, "/run/docker/netns"}

// place is a namespace that can be opened.
type place struct {
	path    string
	process string // name of a process in it; may be empty
}

// places finds the namespaces on this machine, as far as this process may see them: the pinned ones, and those of
// processes. Each comes once, by its pin if it has one.
func places() iter.Seq[place] {
	byInode := map[uint64]*place{}
	var order []uint64
	put := func(inode uint64, p place) {
		if have := byInode[inode]; have == nil {
			byInode[inode] = &p
			order = append(order, inode)
		} else if have.process == "" {
			have.process = p.process
		}
	}
	for _, dir := range pinDirs {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if st, err := os.Stat(path); err == nil {
				put(st.Sys().(*syscall.Stat_t).Ino, place{path: path})
			}
		}
	}
	for _, pid := range processes() {
		dir := "/proc/" + strconv.Itoa(pid)
		link, err := os.Readlink(dir + "/ns/net") // net:[4026531840]
		if err != nil {
			continue
		}
		inode, err := strconv.ParseUint(strings.Trim(strings.TrimPrefix(link, "net:"), "[]"), 10, 64)
		if err != nil {
			continue
		}
		if p := byInode[inode]; p != nil && p.process != "" {
			continue
		}
		name, _ := os.ReadFile(dir + "/comm")
		put(inode, place{dir + "/ns/net", strings.TrimSpace(string(name))})
	}
	return func(yield func(place) bool) {
		for _, inode := range order {
			if !yield(*byInode[inode]) {
				return
			}
		}
	}
}

// processes are the process IDs, lowest first: that of a pod's first process comes before those of its children.
func processes() (pids []int) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.SortFunc(pids, cmp.Compare)
	return pids
}

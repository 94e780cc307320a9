package cni

import (
	"context"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Run is [Run] for a program that is several plugins: it serves as the one that [Delegates.Called] finds, and says by an
// error of the specification if there is none.
func (d Delegates) Run(ctx context.Context, arg0 string, getenv func(string) string, in io.Reader, out, errs io.Writer) int {
	name, err := d.Called(arg0)
	return run(ctx, d[name], name, err, d, getenv, in, out, errs)
}

// Called is the name of the plugin that this program was started as: arg0 is its argument 0, which may be anything. It is
// the name of the file; or one that it is a link to; else the one name that the file's name holds as a word, as rancher-bridge
// and bridge.real hold "bridge".
func (d Delegates) Called(arg0 string) (name string, err error) {
	if name = filepath.Base(arg0); d[name] != nil {
		return name, nil
	}
	files := []string{name}
	if st, err := os.Stat(arg0); err == nil {
		if own, err := selfInfo(); err == nil && os.SameFile(st, own) {
			files = links(arg0)
		}
	}
	if exe, err := os.Readlink(self); err == nil { // the file behind a descriptor
		files = append(files, filepath.Base(strings.TrimSuffix(exe, " (deleted)")))
	}
	if name = d.exactly(files); name != "" {
		return name, nil
	}
	held := d.held(files)
	if len(held) == 1 {
		return held[0], nil
	}
	found := "none"
	if len(held) > 1 {
		found = strings.Join(held, " and ")
	}
	return "", Errorf(ErrConfig, "the plugin was called as %q, and which it is follows from its name, which holds %s of %s: "+
		"call the file by one of these names, make a link to such a file, or put one of them into the name, such as my-%[4]s",
		clip(files[0]), found, strings.Join(d.names(), ", "), d.names()[0])
}

func (d Delegates) names() []string { return slices.Sorted(maps.Keys(d)) }

// Kind is the plugin that a delegate's type stands for: another name of a plugin that is linked in, see
// [Delegates.Called], is that one's own. Any other type stands for itself. Without CNI_PATH, where the file would be, what
// the type holds as a word decides.
func (r *Request) Kind(typ string) string {
	if r.Delegates[typ] != nil || !validType(typ) {
		return typ
	}
	path, st := r.find(typ)
	files := []string{typ}
	if path != "" {
		files = links(path)
		if name := r.Delegates.exactly(files); name != "" {
			return name
		}
	}
	if len(r.Path) == 0 || path != "" && isSelf(path, st) {
		if held := r.Delegates.held(files); len(held) == 1 {
			return held[0]
		}
	}
	return typ
}

// exactly is the first name of files that is a plugin's.
func (d Delegates) exactly(files []string) string {
	for _, file := range files {
		if d[file] != nil {
			return file
		}
	}
	return ""
}

// held are the plugins, sorted, that the first name of files that holds any holds as words: between what is neither letter
// nor digit.
func (d Delegates) held(files []string) (held []string) {
	for _, file := range files {
		words := "-" + strings.Map(func(c rune) rune {
			if c < 0x80 && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
				return '-'
			}
			return c
		}, file) + "-"
		for name := range d {
			if strings.Contains(words, "-"+name+"-") {
				held = append(held, name)
			}
		}
		if len(held) > 0 {
			slices.Sort(held)
			break
		}
	}
	return held
}

// links are the names of a file and of those that it is a symbolic link to, one after the other.
func links(path string) (names []string) {
	for range 40 { // as many as the kernel follows
		names = append(names, filepath.Base(path))
		to, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(to) {
			to = filepath.Dir(path) + "/" + to
		}
		path = to
	}
	return names
}

package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// watcher has the kernel tell when the file that a path leads to may have become another one. The nil watcher tells
// nothing.
type watcher struct {
	*fsnotify.Watcher
	way way
}

// way is how a path leads to its file: the directories that are passed, and in them the names that matter.
type way struct{ dirs, names []string }

// watch makes a watcher, or returns nil and why there is none.
func watch(path string) (*watcher, error) {
	var err error
	for range 3 { // the way may change while it is walked
		var w *watcher
		if w, err = watchWay(follow(path)); err == nil {
			if again := follow(path); slices.Equal(again.names, w.way.names) && slices.Equal(again.dirs, w.way.dirs) {
				return w, nil
			}
			w.close()
			err = errors.New("the directories on its way keep changing")
		}
	}
	return nil, fmt.Errorf("peers file %s cannot be watched, it is looked at now and then: %w", path, err)
}

func watchWay(way way) (*watcher, error) {
	n, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("%w (raise sysctl fs.inotify.max_user_instances?)", err)
	}
	w := &watcher{Watcher: n, way: way}
	for _, dir := range way.dirs {
		if err := n.Add(dir); err != nil {
			w.close()
			return nil, fmt.Errorf("inotify on %s: %w", dir, err)
		}
	}
	return w, nil
}

func (w *watcher) close() {
	if w != nil {
		w.Watcher.Close()
	}
}

// wait returns true when there is a reason to look at the file again, and false when ctx is done. idle tells, when poll
// is over, whether everything is as it was.
func (w *watcher) wait(ctx context.Context, poll, settle time.Duration, idle func() bool) bool {
	var events chan fsnotify.Event
	var errs chan error
	if w != nil {
		events, errs = w.Events, w.Errors
	}
	look := time.NewTicker(poll)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-errs: //nolint:errcheck // it says that events were lost, whatever it is
			return true
		case <-look.C:
			if !idle() {
				return true
			}
		case e := <-events:
			if w.relevant(e) {
				return w.settle(ctx, settle)
			}
		}
	}
}

// settle waits until nothing has happened for a while, though not forever.
func (w *watcher) settle(ctx context.Context, quiet time.Duration) bool {
	const patience = 50
	end := time.NewTimer(patience * quiet)
	defer end.Stop()
	calm := time.NewTimer(quiet)
	defer calm.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-calm.C:
			return true
		case <-end.C:
			return true
		case <-w.Errors: //nolint:errcheck // it says that events were lost, whatever it is
			return true
		case e := <-w.Events:
			if w.relevant(e) {
				calm.Reset(quiet)
			}
		}
	}
}

func (w *watcher) relevant(e fsnotify.Event) bool {
	name := filepath.Clean(e.Name)
	return slices.Contains(w.way.names, name) || slices.Contains(w.way.dirs, name)
}

// follow walks an absolute path as the kernel does, and ends where nothing is there yet. A directory that is neither a
// link nor in danger of being replaced by one is passed unwatched, all but the last: whoever moves away a directory
// further up is noticed by the next poll.
func follow(path string) way {
	const most = 255 // links and elements; the kernel gives up after 40 links
	var way way
	at, rest := "/", elements(path)
	for range most {
		if len(rest) == 0 {
			break
		}
		name := rest[0]
		rest = rest[1:]
		if name == ".." {
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, name)
		info, err := os.Lstat(next)
		switch {
		case err != nil:
			way.add(at, next)
			return way
		case info.Mode().Type() == fs.ModeSymlink:
			way.add(at, next)
			to, err := os.Readlink(next)
			if err != nil {
				return way
			}
			if filepath.IsAbs(to) {
				at = "/"
			}
			rest = append(elements(to), rest...)
		case len(rest) == 0:
			way.add(at, next)
		default:
			at = next
		}
	}
	return way
}

func (w *way) add(dir, name string) {
	if !slices.Contains(w.dirs, dir) {
		w.dirs = append(w.dirs, dir)
	}
	if !slices.Contains(w.names, name) {
		w.names = append(w.names, name)
	}
}

func elements(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(s string) bool { return s == "" || s == "." })
}

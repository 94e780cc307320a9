package file

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"time"

	"github.com/cniblocks/cniblocks/peer"
)

// Source follows a peers document as a [peer.Source]. It survives all ways in which a file comes to be a new one: written
// in place, replaced by rename(2), reached through a symbolic link that is switched as in a Kubernetes ConfigMap mount,
// removed and put back, with the directories that it lies in.
//
// While the file is gone, unreadable or unusable as a whole the last good state stays, and the error beside it says so.
type Source struct {
	Path string

	// Settle is for how long the file has to be left alone, after a change was noticed, before it is read: a file that is
	// written in place is incomplete for a while. 0 is 20 ms. Whoever keeps writing delays it by no more than fifty times
	// that.
	Settle time.Duration

	// Poll is how often the file is looked at though the kernel gave no notice: on a network file system, where a
	// directory further up was moved away, or where no inotify instance is left. 0 is 10 s. A look is one stat(2).
	Poll time.Duration
}

var _ peer.Source = Source{}

// Watch yields the peers, as [peer.Source] says.
func (s Source) Watch(ctx context.Context) iter.Seq2[[]peer.Peer, error] {
	return func(yield func([]peer.Peer, error) bool) {
		for n, err := range s.WatchNetwork(ctx) {
			if !yield(n.Peers, err) {
				return
			}
		}
	}
}

// WatchNetwork is Watch with the network's prefixes. The Network is the zero value, with nil Peers, as long as no good
// document was seen.
func (s Source) WatchNetwork(ctx context.Context) iter.Seq2[peer.Network, error] {
	return func(yield func(peer.Network, error) bool) {
		path, err := filepath.Abs(s.Path)
		if err != nil {
			yield(peer.Network{}, fmt.Errorf("peers file %s: %w", s.Path, err))
			return
		}
		st := state{path: path}
		for ctx.Err() == nil && s.round(ctx, &st, yield) {
		}
	}
}

// round looks once and then waits until there is a reason to look again. It watches from before the look, so that
// nothing is missed in between.
func (s Source) round(ctx context.Context, st *state, yield func(peer.Network, error) bool) bool {
	w, err := watch(st.path)
	defer w.close()
	if st.look(err) && !yield(st.network(), st.err) {
		return false
	}
	idle := func() bool { return err == nil && st.same() }
	return w.wait(ctx, cmp.Or(s.Poll, 10*time.Second), cmp.Or(s.Settle, 20*time.Millisecond), idle)
}

// state is what is known of a file and what was told of it.
type state struct {
	path  string
	doc   Document // the last good one
	known bool     // there is one
	stale bool     // what is in the file now is not it
	told  bool     // something was yielded
	err   error    // that
}

// look brings the state up to date and reports whether there is something to tell. That the file cannot be watched is one
// more thing to tell.
func (st *state) look(watching error) bool {
	if st.same() {
		return st.tell(false, st.complaint(), watching)
	}
	doc, err := Load(st.path)
	if err != nil {
		st.stale = true
		if st.known {
			err = fmt.Errorf("%w; the last good state with %d peers is kept", err, len(st.doc.Peers))
		} else {
			err = fmt.Errorf("%w; no peers are known yet", err)
		}
		return st.tell(false, err, watching)
	}
	changed := !st.known || doc.ID.Hash != st.doc.ID.Hash
	st.doc, st.known, st.stale = doc, true, false
	return st.tell(changed, st.complaint(), watching)
}

// same reports whether the file still holds the last good document.
func (st *state) same() bool {
	if !st.known || st.stale {
		return false
	}
	now, same, err := st.doc.ID.Same(st.path)
	if err != nil || !same {
		return false
	}
	st.doc.ID = now
	return true
}

// complaint is what is wrong with a document that is good as a whole.
func (st *state) complaint() error {
	if len(st.doc.Problems) == 0 {
		return nil
	}
	return &peer.LeftOut{Where: "peers file " + st.path, Problems: st.doc.Problems}
}

func (st *state) tell(changed bool, errs ...error) bool {
	err := errors.Join(errs...)
	news := changed || !st.told || fmt.Sprint(err) != fmt.Sprint(st.err)
	st.told, st.err = true, err
	return news
}

// network is a copy for the caller.
func (st *state) network() peer.Network {
	return peer.Network{Prefixes: slices.Clone(st.doc.Prefixes), Peers: slices.Clone(st.doc.Peers)}
}

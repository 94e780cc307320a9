package peer

import (
	"context"
	"errors"
	"iter"
)

// Source knows who the peers are: a file, etcd, the Kubernetes API.
type Source interface {
	// Watch yields the whole list of peers, this node among them: first as it is, then whenever it has changed. It blocks
	// in between, in the goroutine of its caller, and ends when ctx is done or the caller leaves the loop; nothing that
	// it started lives on then. It never ends because of trouble with the store, however long.
	//
	// A list is always what holds now, valid by [Network.Sift], and the caller's to keep. An error beside it is a report:
	// the store cannot be reached or read, so that the list is the last good one, or some of its entries are unusable and
	// left out, which [Report] tells apart. The same trouble is reported once, its end by a nil error. A nil list
	// comes with an error alone: nothing has been learned yet, and nothing may be concluded from it. An empty list that
	// is not nil says that there are no peers.
	//
	// Each call is a watch of its own.
	Watch(ctx context.Context) iter.Seq2[[]Peer, error]
}

// Registrar takes ranges of pod addresses for this node and makes the node known to the others. The order is: Acquire,
// make the devices ready, Publish, apply the peers. One goroutine calls Acquire and Publish.
type Registrar interface {
	// Acquire takes this node's ranges and returns the node as the store has it now. In want stand its name and the
	// addresses of its endpoints; Pods are the ranges that it had before, which it gets again if they are free. The
	// result has the Pods that are taken, and the Reach that is published, of which a MAC or a key that the store keeps
	// from an earlier life is the one to go on with.
	//
	// What this node holds already is not taken a second time, so that Acquire may be repeated after any failure. It
	// waits for the store until ctx is done. A network without a free range is an error that says so.
	Acquire(ctx context.Context, want Peer) (Peer, error)

	// Publish makes known how this node is reached, in place of what was published before. Publishing the same again
	// writes nothing. It is an error before Acquire, and one with [ErrLost] in its chain if the ranges are gone.
	Publish(ctx context.Context, r Reach) error

	// Lost blocks for as long as the ranges of the last Acquire are this node's and does what it takes to keep them. If
	// they become another's, or nobody's, it returns an error that says whose, with [ErrLost] in its chain; the caller
	// then stops advertising and decides whether to Acquire anew. When ctx is done it returns the cause of that, and the
	// ranges stay taken: a node that restarts finds them again. A store that cannot be reached is no loss.
	Lost(ctx context.Context) error
}

// ErrLost says that this node's ranges are no longer its own.
var ErrLost = errors.New("the ranges are no longer this node's")

// LeftOut is the part of a report that is about single entries: those that are not on the list, and warnings. The store that
// they are in is well.
type LeftOut struct {
	Where    string // they stand
	Problems Problems
}

// Error has a line for each entry.
func (l *LeftOut) Error() string { return l.Where + ": " + l.Problems.Error() }

// Unwrap gives the problems to [errors.As].
func (l *LeftOut) Unwrap() error { return l.Problems }

// Report parts what a [Source] reports beside a list: down says why the store cannot be reached or read, nil if it can; out is
// what is wrong with single entries.
func Report(err error) (out Problems, down error) {
	switch e := err.(type) { //nolint:errorlint // one that is wrapped is about more than entries
	case *LeftOut:
		return e.Problems, nil
	case interface{ Unwrap() []error }:
		var rest []error
		for _, inner := range e.Unwrap() {
			o, d := Report(inner)
			rest, out = append(rest, d), append(out, o...)
		}
		if len(out) > 0 {
			return out, errors.Join(rest...)
		}
	}
	return nil, err
}

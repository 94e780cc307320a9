package kube

import (
	"context"
	"maps"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
)

// view is what is known of the nodes in sight: as little of each as is needed. A reflector writes it.
type view[T any] struct {
	keep    func(*corev1.Node) T // what to keep of a node
	same    func(a, b T) bool
	changed chan struct{} // has a value when there is something to look at

	mu    sync.Mutex
	nodes map[string]T
	known bool  // nodes were listed once
	err   error // the trouble of now
	class string
}

func newView[T any](keep func(*corev1.Node) T, same func(a, b T) bool) *view[T] {
	return &view[T]{keep: keep, same: same, changed: make(chan struct{}, 1), nodes: map[string]T{}}
}

// snapshot is the state of now. Nothing but trouble is known before the first list.
func (v *view[T]) snapshot() (known bool, nodes map[string]T, trouble error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.known, maps.Clone(v.nodes), v.err
}

func (v *view[T]) signal() {
	select {
	case v.changed <- struct{}{}:
	default:
	}
}

// trouble notes an error, unless it comes of the end of ctx.
func (v *view[T]) trouble(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if k := class(err); k != v.class {
		v.err, v.class = err, k
		v.signal()
	}
}

// resumed notes that the API server answers, and sends all changes since the last known one.
func (v *view[T]) resumed() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.well()
}

func (v *view[T]) well() {
	if v.err != nil {
		v.err, v.class = nil, ""
		v.signal()
	}
}

// Transformer drops all but what is kept, so that no list of whole nodes is ever in memory.
func (v *view[T]) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) {
		if n, ok := obj.(*corev1.Node); ok {
			return strip(n), nil
		}
		return obj, nil
	}
}

// Add takes a node from the reflector.
func (v *view[T]) Add(obj any) error { return v.Update(obj) }

// Update takes a node from the reflector.
func (v *view[T]) Update(obj any) error {
	n, ok := obj.(*corev1.Node)
	if !ok {
		return nil
	}
	now := v.keep(n)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.well()
	if old, ok := v.nodes[n.Name]; !ok || !v.same(old, now) {
		v.nodes[n.Name] = now
		v.signal()
	}
	return nil
}

// Delete takes the end of a node from the reflector.
func (v *view[T]) Delete(obj any) error {
	n, ok := obj.(*corev1.Node)
	if !ok {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.well()
	delete(v.nodes, n.Name)
	v.signal()
	return nil
}

// Replace takes the whole list from the reflector.
func (v *view[T]) Replace(all []any, _ string) error {
	nodes := make(map[string]T, len(all))
	for _, obj := range all {
		if n, ok := obj.(*corev1.Node); ok {
			nodes[n.Name] = v.keep(n)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.well()
	v.nodes, v.known = nodes, true
	v.signal()
	return nil
}

// Resync is not used.
func (v *view[T]) Resync() error { return nil }

var _ cache.TransformingStore = (*view[struct{}])(nil)

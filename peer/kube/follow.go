package kube

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// retry is how the API server is tried again: after an outage of any length it is found back within a second or so, and
// never by all nodes at the same moment.
var retry = wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Steps: 5, Cap: 800 * time.Millisecond, Jitter: 0.5}

// follow keeps what is in view the same as the nodes that the selector chooses, until ctx is done. Nothing that it
// started lives on when it returns.
func (c *client) follow(ctx context.Context, which fields.Selector, v *view) {
	ctx = klog.NewContext(ctx, logr.Discard())
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = which.String()
			list, err := c.list(ctx, o)
			if err != nil {
				return nil, v.trouble(ctx, err)
			}
			return list, nil
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = which.String()
			w, err := c.watch(ctx, o)
			first := o.SendInitialEvents != nil
			switch {
			case err == nil && !first:
				v.resumed()
			case err != nil:
				_ = v.trouble(ctx, err)
				if first { // which the reflector would try again without an eye on ctx
					err = errors.New(err.Error())
				}
			}
			return w, err
		},
	}
	logger := logr.Discard()
	backoff := retry
	cache.NewReflectorWithOptions(lw, &corev1.Node{}, v, cache.ReflectorOptions{Logger: &logger, Name: resource, Backoff: &backoff}).RunWithContext(ctx)
}

// view is what is known of the nodes in sight: as little as is needed of each. The reflector writes it.
type view struct {
	keep    func(*corev1.Node) node // what to keep of a node
	changed chan struct{}           // has a value when there is something to look at

	mu    sync.Mutex
	nodes map[string]node
	known bool  // nodes were listed once
	err   error // the trouble of now
	class string
}

func newView(keep func(*corev1.Node) node) *view {
	return &view{keep: keep, changed: make(chan struct{}, 1), nodes: map[string]node{}}
}

// look is the state of now. The caller must not keep the map beyond f.
func (v *view) look(f func(nodes map[string]node, known bool, err error)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f(v.nodes, v.known, v.err)
}

func (v *view) signal() {
	select {
	case v.changed <- struct{}{}:
	default:
	}
}

// trouble notes an error, unless it comes of the end of ctx, and returns it.
func (v *view) trouble(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if k := class(err); k != v.class {
		v.err, v.class = err, k
		v.signal()
	}
	return err
}

// resumed notes that the API server answers, and has all changes since the last known one.
func (v *view) resumed() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.well()
}

func (v *view) well() {
	if v.err != nil {
		v.err, v.class = nil, ""
		v.signal()
	}
}

// Transformer drops all but what is kept, so that no list of whole nodes is ever in memory.
func (v *view) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) {
		n, ok := obj.(*corev1.Node)
		if !ok {
			return obj, nil
		}
		return strip(n), nil
	}
}

// Add takes a node from the reflector.
func (v *view) Add(obj any) error { return v.Update(obj) }

// Update takes a node from the reflector.
func (v *view) Update(obj any) error {
	n, ok := obj.(*corev1.Node)
	if !ok {
		return nil
	}
	now := v.keep(n)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.well()
	if !v.nodes[n.Name].equal(now) {
		v.nodes[n.Name] = now
		v.signal()
	}
	return nil
}

// Delete takes the end of a node from the reflector.
func (v *view) Delete(obj any) error {
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
func (v *view) Replace(all []any, _ string) error {
	nodes := make(map[string]node, len(all))
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
func (v *view) Resync() error { return nil }

var _ cache.TransformingStore = (*view)(nil)

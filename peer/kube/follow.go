package kube

import (
	"context"
	"errors"
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

// observer is a store of the reflector's that also learns how the API server is.
type observer interface {
	cache.ReflectorStore
	trouble(ctx context.Context, err error)
	resumed()
}

// start keeps o the same as the nodes that the selector chooses until stop is called, which waits for the end.
func (c *client) start(ctx context.Context, which fields.Selector, o observer) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.follow(ctx, which, o)
	}()
	return func() {
		cancel()
		<-done
	}
}

func (c *client) follow(ctx context.Context, which fields.Selector, o observer) {
	logger, backoff := logr.Discard(), retry
	ctx = klog.NewContext(ctx, logger)
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, lo metav1.ListOptions) (runtime.Object, error) {
			lo.FieldSelector = which.String()
			list, err := c.list(ctx, lo)
			if err != nil {
				o.trouble(ctx, err)
				return nil, err
			}
			return list, nil
		},
		WatchFuncWithContext: func(ctx context.Context, lo metav1.ListOptions) (watch.Interface, error) {
			lo.FieldSelector = which.String()
			w, err := c.watch(ctx, lo)
			first := lo.SendInitialEvents != nil
			switch {
			case err == nil && !first:
				o.resumed()
			case err != nil && !gone(err):
				o.trouble(ctx, err)
				if first { // the reflector would try these again without an eye on ctx
					err = errors.New(err.Error())
				}
			}
			return w, err
		},
	}
	cache.NewReflectorWithOptions(lw, &corev1.Node{}, o, cache.ReflectorOptions{Logger: &logger, Name: resource, Backoff: &backoff}).RunWithContext(ctx)
}

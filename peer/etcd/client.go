package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/flannel"
)

// Store is a network in etcd, and one node's hold of it. Its methods may be called from several goroutines, where
// [peer.Registrar] does not say otherwise. It is large since list, watch, registration and layout share one connection and what
// the store said last.
type Store struct {
	o       Options
	calls   atomic.Uint64
	watches atomic.Uint64 // that were begun

	connecting sync.Mutex // held while a client is made
	mu         sync.Mutex
	client     *clientv3.Client
	closed     bool
	config     *flannel.Config // that was read last
	held       *hold           // of the last Acquire; replaced, never changed
	lost       bool            // held is not this node's any more
	wake       chan struct{}   // closed when one of the last three changes
	expires    time.Time
	revision   int64
	recycled   []peer.Peer // whose memory a list may be made in
}

// New makes a store. It does not connect: a node starts while the store is down. [Store.Close] frees what it uses.
func New(o Options) (*Store, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	return &Store{o: o, wake: make(chan struct{})}, nil
}

// Close ends the connection and, with errors, whatever still uses it. The ranges stay taken.
func (s *Store) Close() error {
	s.mu.Lock()
	c := s.client
	s.client, s.closed = nil, true
	s.mu.Unlock()
	if c == nil {
		return nil
	}
	return c.Close()
}

// Status is what is known without asking the store.
type Status struct {
	Key      string    // of this node's lease, "" before [Store.Acquire]
	Lease    int64     // etcd's lease of it, as etcdctl shows it in hexadecimal; 0 for a reservation
	Expires  time.Time // of the lease, as of its last renewal; zero if it was not renewed yet
	Revision int64     // of the store, as of the last answer to a Watch
	Calls    uint64    // to the store so far
}

// Status is as of now.
func (s *Store) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{Expires: s.expires, Revision: s.revision, Calls: s.calls.Load()}
	if s.held != nil {
		st.Key, st.Lease = s.held.key, int64(s.held.lease)
	}
	return st
}

// connect returns the client. With a password it asks the store for a token first, and fails where that fails.
func (s *Store) connect(ctx context.Context) (*clientv3.Client, error) {
	s.connecting.Lock()
	defer s.connecting.Unlock()
	s.mu.Lock()
	c, closed := s.client, s.closed
	s.mu.Unlock()
	if closed {
		return nil, errors.New("the store was closed")
	}
	if c != nil {
		return c, nil
	}
	base, cancel := context.WithCancel(context.Background())
	stop := context.AfterFunc(ctx, cancel)
	c, err := clientv3.New(s.clientConfig(base))
	if !stop() && err == nil { // the client lives in a context that has ended
		err = errors.Join(context.Cause(ctx), c.Close())
	}
	if err != nil {
		cancel()
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		cancel()
		return nil, errors.Join(errors.New("the store was closed"), c.Close())
	}
	s.client = c // which ends base when it is closed
	context.AfterFunc(c.Ctx(), cancel)
	return c, nil
}

func (s *Store) clientConfig(ctx context.Context) clientv3.Config {
	c := clientv3.Config{
		Context: ctx, Endpoints: s.o.Endpoints, TLS: s.o.TLS, Username: s.o.Username, Password: s.o.Password,
		DialTimeout: s.o.Timeout, DialKeepAliveTime: 30 * time.Second, DialKeepAliveTimeout: 10 * time.Second,
		MaxUnaryRetries: 2, // the second is for a token that has expired
		Logger:          zap.NewNop(),
		DialOptions: []grpc.DialOption{
			grpc.WithChainUnaryInterceptor(s.unary), grpc.WithChainStreamInterceptor(s.stream),
			// Without this the connection comes back up to two minutes after the store.
			grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: s.o.Timeout,
				Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond}}),
		},
	}
	if s.o.Dial != nil {
		c.DialOptions = append(c.DialOptions, grpc.WithContextDialer(s.o.Dial))
	}
	return c
}

// errStale says that the store does not even take a password beside the token that it does not know any more, which it
// forgets when it restarts. Servers of 3.4 are so, and the client would try without end.
var errStale = status.Error(codes.Unavailable, "the token has expired")

// unary and stream see every call that goes out. While there is no connection they fail at once and can say why.
func (s *Store) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	s.calls.Add(1)
	err := call(ctx, method, req, reply, cc, append(opts[:len(opts):len(opts)], grpc.WaitForReady(false))...)
	if method == pb.Auth_Authenticate_FullMethodName && errors.Is(rpctypes.Error(err), rpctypes.ErrInvalidAuthToken) {
		return errStale
	}
	return err
}

func (s *Store) stream(ctx context.Context, d *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s.calls.Add(1)
	return open(ctx, d, cc, method, append(opts[:len(opts):len(opts)], grpc.WaitForReady(false))...)
}

// drop ends a client that is of no use any more; the next call makes another one.
func (s *Store) drop(c *clientv3.Client) {
	s.mu.Lock()
	if s.client == c {
		s.client = nil
	}
	s.mu.Unlock()
	_ = c.Close()
}

// call asks the store once; if the token has expired, again at once with a client that takes another one. The error says
// what was asked and of whom.
func (s *Store) call(ctx context.Context, what string, f func(context.Context, *clientv3.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	again, err := s.ask(ctx, f)
	if again {
		_, err = s.ask(ctx, f)
	}
	if err == nil {
		return nil
	}
	return s.wrap(what, err)
}

// ask is call without a second try, which it says whether to make.
func (s *Store) ask(ctx context.Context, f func(context.Context, *clientv3.Client) error) (again bool, err error) {
	c, err := s.connect(ctx)
	if err != nil {
		return false, err
	}
	if err = f(ctx, c); errors.Is(err, errStale) {
		s.drop(c)
	}
	return err != nil && s.dropped(c), err
}

// dropped reports whether a client was replaced, so that what it still says is of no consequence.
func (s *Store) dropped(c *clientv3.Client) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.client != c && !s.closed
}

func (s *Store) wrap(what string, err error) error {
	return fmt.Errorf("etcd %s: %s: %w", strings.Join(s.o.Endpoints, ","), what, &trouble{err})
}

// trouble is an error of the store in words for people.
type trouble struct{ err error }

func (t *trouble) Error() string {
	switch st, ok := status.FromError(t.err); {
	case errors.Is(t.err, context.DeadlineExceeded), st.Code() == codes.DeadlineExceeded:
		return "no answer in time"
	case ok && st.Code() != codes.Unknown:
		return st.Message()
	}
	return t.err.Error()
}

func (t *trouble) Unwrap() error { return t.err }

// passing reports whether an error is one that time may heal: nobody answers, the cluster has no leader, or the client was
// replaced.
func passing(err error) bool {
	var e rpctypes.EtcdError
	if errors.As(err, &e) {
		return e.Code() == codes.Unavailable
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return true
	}
	c := code(err)
	return c == codes.Unavailable || c == codes.DeadlineExceeded || c == codes.Canceled
}

func code(err error) codes.Code {
	var t *trouble
	if errors.As(err, &t) {
		err = t.err
	}
	return status.Code(err)
}

const (
	firstPause = 50 * time.Millisecond
	lastPause  = 500 * time.Millisecond
)

// retry asks the store until it answers. When ctx is done the error has the cause of that and what was wrong before.
func (s *Store) retry(ctx context.Context, what string, f func(context.Context, *clientv3.Client) error) error {
	var last error
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := s.call(ctx, what, f)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil && !passing(err) {
			return err
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		if !sleep(ctx, pause) {
			return fmt.Errorf("%w: %w", context.Cause(ctx), last)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

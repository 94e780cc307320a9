package kube

import (
	"context"
	"net"
	"time"
)

// NewAt is New with connections of the test's own making.
func NewAt(o Options, dial func(ctx context.Context, network, addr string) (net.Conn, error)) (*Store, error) {
	return open(o, dial)
}

// Poll sets how often the file with the configuration is read.
func (s *Store) Poll(d time.Duration) { s.poll = d }

package kube

import (
	"context"
	"net"
)

// NewAt is New with connections of the test's own making.
func NewAt(o Options, dial func(ctx context.Context, network, addr string) (net.Conn, error)) (*Store, error) {
	return open(o, dial)
}

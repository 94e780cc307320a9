//go:build !linux

package ipam

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
)

type hooks struct{}

var errOther = fmt.Errorf("leases in a directory need Linux: %w", errors.ErrUnsupported)

// Allocate needs Linux.
func (a Allocator) Allocate(context.Context, Owner, ...netip.Addr) ([]Lease, error) {
	return nil, errOther
}

// Available needs Linux.
func (a Allocator) Available(context.Context) ([]int, error) { return nil, errOther }

// Release needs Linux.
func (d Dir) Release(context.Context, Owner) error { return errOther }

// Check needs Linux.
func (d Dir) Check(context.Context, Owner, ...netip.Addr) error { return errOther }

// Retain needs Linux.
func (d Dir) Retain(context.Context, iter.Seq[Owner]) error { return errOther }

// Leases needs Linux.
func (d Dir) Leases(context.Context) ([]Held, error) { return nil, errOther }

// Holder needs Linux.
func (d Dir) Holder(netip.Addr) (Owner, error) { return Owner{}, errOther }

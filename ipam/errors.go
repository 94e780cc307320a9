package ipam

import (
	"errors"
	"net/netip"
)

// What a caller may want to tell apart with [errors.Is]. "Not there" is [io/fs.ErrNotExist].
var (
	// ErrExhausted: a pool has no address left, not even one of an earlier boot.
	ErrExhausted = errors.New("no address left")
	// ErrHeld: the owner holds a lease already. It was left as it is.
	ErrHeld = errors.New("owner holds a lease already")
	// ErrTaken: an address is held by somebody else, whom the message names.
	ErrTaken = errors.New("address is taken")
	// ErrNotOffered: the address that was asked for is in no pool, is a gateway, or is one too many for its pool. It is a
	// [*NotOfferedError].
	ErrNotOffered = errors.New("address is not offered")
)

// NotOfferedError is [ErrNotOffered] with the address.
type NotOfferedError struct {
	Addr netip.Addr
	why  string
}

func (e *NotOfferedError) Error() string {
	return e.Addr.String() + ": " + ErrNotOffered.Error() + ": " + e.why
}

// Is reports whether the error is ErrNotOffered.
func (e *NotOfferedError) Is(target error) bool { return target == ErrNotOffered }

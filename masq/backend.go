//go:build linux

package masq

import "context"

// Backend keeps the SNAT of networks in one namespace: [NFT], [IPTables], or one from elsewhere. Its methods may be called from several goroutines and processes at
// once.
type Backend interface {
	// Ensure makes the policy hold. It only adds: what an earlier policy of the network masqueraded or excepted stays until
	// Retain. When all is in place, nothing is written.
	Ensure(ctx context.Context, p Policy) error
	// Check returns an error that says what of the policy is missing or wrong.
	Check(ctx context.Context, p Policy) error
	// Retain takes away what the policy does not name. Pods stay whose owner is among the owners or in the policy.
	Retain(ctx context.Context, p Policy, owners []string) error
	// Forget removes the pods of an owner. It succeeds if there are none.
	Forget(ctx context.Context, network, owner string) error
	// Remove removes everything of the network, and with the last network what all of them share. It succeeds if nothing is
	// there.
	Remove(ctx context.Context, network string) error
	// List returns what is in place, by network. A name that comments cannot carry comes as its beginning and a hash.
	List(ctx context.Context) ([]Policy, error)
	// Name is what the configuration calls the backend.
	Name() string
}

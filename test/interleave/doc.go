// Package interleave is a test: one plugin is stopped before one of its changes, another one runs meanwhile, and then the
// first goes on.
package interleave

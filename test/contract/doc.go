// Package contract proves what the public packages promise in common.
package contract

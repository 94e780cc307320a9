//go:build linux

package link

// Interim is the name that a link has until it gets its own.
func Interim(name, alias string) string { return interim(name, alias) }

// Package malice is a test: the plugins' executables meet names, paths, files and configurations that somebody chose to
// do harm, and run with no more rights than they need.
package malice

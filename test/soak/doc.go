// Package soak is a test: many workers call the plugins at random, as runtimes do and as they should not, and kill them,
// while a model knows what must exist.
package soak

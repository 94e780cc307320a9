// Package docs holds the test that runs every command of README.md, docs and examples in the order of its page, on a
// machine on which nothing is installed yet.
package docs

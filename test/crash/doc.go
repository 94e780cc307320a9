// Package crash has the tests that kill the plugins before every change that they make, and let every change fail, and
// look at what that leaves. See README.md.
package crash

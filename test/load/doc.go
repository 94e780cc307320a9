// Package load is a test of many attachments at once, which prints how long calls take.
package load

//go:build !linux || !amd64

package start

func spread() {}
func hasten() {}

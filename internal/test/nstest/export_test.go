//go:build linux

package nstest

import "github.com/cniblocks/cniblocks/netns"

// Leak pins a namespace as [Named] does and forgets it.
func Leak() (string, error) {
	ns, err := netns.Create(own + "leak")
	if err != nil {
		return "", err
	}
	return own + "leak", ns.Close()
}

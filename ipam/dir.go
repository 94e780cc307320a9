package ipam

import (
	"errors"
	"fmt"
	"strings"
)

// DefaultDataDir is where the reference keeps the leases of all networks.
const DefaultDataDir = "/var/lib/cni/networks"

// Dir is the directory that holds the leases of one network. Methods may be called from any number of goroutines and
// processes; they wait for each other, as long as ctx allows.
type Dir struct {
	DataDir string // "" is DefaultDataDir
	Network string // also the name of the directory in DataDir
	BootID  string // "" is the kernel's, /proc/sys/kernel/random/boot_id

	hooks *hooks
}

func (d Dir) dataDir() string {
	if d.DataDir == "" {
		return DefaultDataDir
	}
	return d.DataDir
}

// check keeps network names, which become paths, to what the CNI specification allows.
func (d Dir) check() error {
	if d.Network == "" {
		return errors.New("network name is empty: give one")
	}
	for i, c := range d.Network {
		alnum := c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !alnum && (i == 0 || !strings.ContainsRune("_.-", c)) || i >= 255 {
			return fmt.Errorf("network name %q: give a letter or digit, then letters, digits, '_', '.' and '-', at most 255", d.Network)
		}
	}
	return nil
}

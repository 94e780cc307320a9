//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// switches are the parameters that make a machine a router, below /proc/sys/net.
var switches = map[string]string{"ipv4": "ipv4/ip_forward", "ipv6": "ipv6/conf/all/forwarding"}

// switchForwarding makes the machine a router for the named families, with ',' between them, through the parameters of the
// kernel as they are mounted at dir. It writes only where they say no: writers at the same time could disturb each other.
func switchForwarding(families, dir string) error {
	if families == "" {
		return nil
	}
	var errs []error
	for family := range strings.SplitSeq(families, ",") {
		name, ok := switches[family]
		if !ok {
			return fmt.Errorf("--forward %s: want ipv4, ipv6 or ipv4,ipv6", families)
		}
		path := filepath.Join(dir, name)
		have, err := os.ReadFile(path)
		if err == nil && strings.TrimSpace(string(have)) == "0" {
			err = os.WriteFile(path, []byte("1"), 0)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("switch on %s forwarding: %w", family, err))
		}
	}
	return errors.Join(errs...)
}

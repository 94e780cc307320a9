//go:build linux

package netns_test

import (
	"errors"
	"fmt"
	"os"

	"github.com/cniblocks/cniblocks/netns"
)

func ExampleOpen() {
	ns, err := netns.Open("/proc/self/ns/net")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ns.Close()
	fmt.Println(ns.Path())

	_, err = netns.Open("/etc/passwd")
	fmt.Println(errors.Is(err, netns.ErrNotNamespace))
	_, err = netns.Open("/run/netns/not-there")
	fmt.Println(errors.Is(err, os.ErrNotExist))
	// Output:
	// /proc/self/ns/net
	// true
	// true
}

func ExampleNS_Do() {
	ns, err := netns.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ns.Close()
	err = ns.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ip_default_ttl", []byte("42"), 0)
	})
	fmt.Println(err)
	_ = ns.Do(func() error {
		ttl, err := os.ReadFile("/proc/sys/net/ipv4/ip_default_ttl")
		fmt.Print(string(ttl))
		return err
	})
	// Output:
	// <nil>
	// 42
}

//go:build tools

// Package tools keeps in go.mod what only tests and later packages import.
package tools

import (
	_ "github.com/containernetworking/cni/libcni"
	_ "github.com/coreos/go-iptables/iptables"
	_ "github.com/fsnotify/fsnotify"
	_ "github.com/google/nftables"
	_ "github.com/stretchr/testify/require"
	_ "github.com/vishvananda/netlink"
	_ "golang.zx2c4.com/wireguard/wgctrl"
)

//go:build linux

// Package dhcp is the CNI IPAM plugin "dhcp": addresses from a DHCP server of the network that a container is attached to.
// A daemon keeps the leases; the plugin asks it over a unix socket.
//
// The protocol is that of the reference's daemon, net/rpc over HTTP: each plugin works with each daemon. See
// docs/plugins/dhcp.md.
package dhcp

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/rpc"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/cni"
)

// Socket is where the daemon is asked.
const Socket = "/run/cni/dhcp.sock"

// Plugin is the plugin; the zero value is ready to use.
type Plugin struct{}

var _ cni.Plugin = Plugin{}

type netconf struct {
	IPAM Conf `json:"ipam"`
}

// call asks the daemon. result is a pointer.
func call(r *cni.Request, method string, result any) error {
	var c netconf
	if r.Verb == cni.DEL || r.Verb == cni.GC {
		_ = r.DecodeLeast(&c) // what can be read
	} else if err := r.DecodeIPAM(&c); err != nil {
		return err
	} else if _, err := c.IPAM.options(r.Args); err != nil {
		return cni.Errorf(cni.ErrConfig, "netconf: %w", err)
	}
	socket := c.IPAM.Socket
	if socket == "" {
		socket = Socket
	}
	client, err := rpc.DialHTTP("unix", socket)
	if err != nil {
		return cni.Errorf(cni.ErrTryAgain, `error dialing DHCP daemon: netconf: key "ipam.daemonSocketPath": %w; start it: 'systemctl enable --now cniblocks-dhcp.socket', or 'cniblocks dhcp'`, err)
	}
	defer client.Close()
	ns := r.NetNS
	if ns != "" {
		if ns, err = filepath.Abs(ns); err != nil { // the daemon has another working directory
			return cni.Errorf(cni.ErrEnvironment, "CNI_NETNS=%s: %w", r.NetNS, err)
		}
	}
	args := &skel.CmdArgs{ContainerID: r.ContainerID, Netns: ns, IfName: r.IfName, Args: r.Args, Path: strings.Join(r.Path, ":"), StdinData: r.Config}
	if err := client.Call("DHCP."+method, args, result); err != nil {
		msg, details, _ := strings.Cut(err.Error(), ": ")
		if msg != noMoreTries { // which scripts compare with the reference's, as a whole
			msg, details = err.Error(), ""
		}
		return &cni.Error{Code: cni.ErrIO, Msg: "error calling DHCP." + method + ": " + msg, Details: details}
	}
	return nil
}

// noMoreTries is how the error of an ADD begins that got no lease in time.
const noMoreTries = "no more tries"

// lacks reports whether an error is that of a daemon that does not have the method: the reference's has Allocate and Release.
func lacks(err error) bool {
	return err != nil && strings.Contains(err.Error(), "rpc: can't find method")
}

// Add has the daemon get a lease and keep it.
func (Plugin) Add(_ context.Context, r *cni.Request) (*cni.Result, error) {
	var res types100.Result
	if err := call(r, "Allocate", &res); err != nil {
		return nil, err
	}
	res.CNIVersion = types100.ImplementedSpecVersion
	b, err := json.Marshal(res)
	if err != nil {
		return nil, err
	}
	return cni.ParseResult(b)
}

// Del gives the lease back. Without a daemon nobody keeps it, and it ends by itself.
func (Plugin) Del(_ context.Context, r *cni.Request) error {
	err := call(r, "Release", &struct{}{})
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		r.Warn("%v; the lease is not given back, and ends by itself", err)
		return nil
	}
	return err
}

// Check fails if the daemon does not keep the lease, or the address is another one.
func (Plugin) Check(_ context.Context, r *cni.Request) error {
	err := call(r, "Check", &struct{}{})
	if lacks(err) {
		return call(r, "Allocate", &types100.Result{})
	}
	return err
}

// Status fails if the daemon does not answer.
func (Plugin) Status(_ context.Context, r *cni.Request) error {
	err := call(r, "Status", &struct{}{})
	if lacks(err) {
		return nil
	}
	return cni.Unavailable(err)
}

// GC gives back the leases of this network's attachments that the runtime no longer has.
func (Plugin) GC(_ context.Context, r *cni.Request) error {
	err := call(r, "Retain", &struct{}{})
	if lacks(err) {
		r.Warn("the DHCP daemon is the reference's, which has no GC: leases of attachments that are gone end by themselves")
		return nil
	}
	return err
}

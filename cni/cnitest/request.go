//go:build linux

// Package cnitest helps to test CNI plugins: an IPAM plugin that hands out stated addresses, requests as a runtime makes
// them, and tables of netconfs with the state that they are to make of a node and a container.
//
// The plugin runs in the test's own process, in network namespaces made for it; nothing is done to the machine's. That
// needs root. State is read by the programs ip, bridge and nft, which know nothing of the plugin.
//
// Out of scope: running a chain of plugins, which libcni does.
package cnitest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/netns"
)

// Request is what a runtime asks of a plugin.
type Request struct {
	Verb        cni.Verb         // zero is ADD
	Config      string           // the netconf
	Version     string           // in place of the netconf's cniVersion; zero leaves it
	ContainerID string           // zero is c1
	IfName      string           // zero is eth0
	Pod         *netns.NS        // of the container; nil is none
	Args        string           // CNI_ARGS
	Path        string           // CNI_PATH; zero is a directory that is not there
	Prev        json.RawMessage  // prevResult, such as [Answer.Out] of the ADD; nil leaves what the netconf has
	Valid       []cni.Attachment // cni.dev/valid-attachments, for GC; nil leaves what the netconf has
}

// Answer is what a plugin printed.
type Answer struct {
	Status int    // of the process; 0 is success
	Out    []byte // a result or an error
	Err    string // warnings
}

// String is all of it, for messages.
func (a Answer) String() string { return fmt.Sprintf("status %d: %s%s", a.Status, a.Out, a.Err) }

// Build is the request as [cni.Run] passes it to a plugin, with the delegates that are linked in.
func (q Request) Build(delegates cni.Delegates) (*cni.Request, error) {
	getenv, config, err := q.parts()
	if err != nil {
		return nil, err
	}
	r, err := cni.NewRequest(getenv, strings.NewReader(config))
	if err == nil {
		r.Delegates = delegates
	}
	return r, err
}

// Run asks a plugin, on a thread in the namespace of the node. What the plugin refuses is in the answer; an error is the
// test's own.
func (q Request) Run(ctx context.Context, node *netns.NS, p cni.Plugin, delegates cni.Delegates) (a Answer, err error) {
	getenv, config, err := q.parts()
	if err != nil {
		return a, err
	}
	var out, errs bytes.Buffer
	err = node.Do(func() error {
		a.Status = cni.Run(ctx, p, delegates, getenv, strings.NewReader(config), &out, &errs)
		return nil
	})
	a.Out, a.Err = out.Bytes(), errs.String()
	return a, err
}

// parts are the environment and the standard input.
func (q Request) parts() (getenv func(string) string, config string, err error) {
	env := map[string]string{"CNI_COMMAND": cmp.Or(string(q.Verb), "ADD"), "CNI_CONTAINERID": cmp.Or(q.ContainerID, "c1"),
		"CNI_IFNAME": cmp.Or(q.IfName, "eth0"), "CNI_ARGS": q.Args, "CNI_PATH": cmp.Or(q.Path, "/nowhere")}
	if q.Pod != nil {
		env["CNI_NETNS"] = path(q.Pod)
	}
	getenv = func(key string) string { return env[key] }
	more := map[string]any{}
	if q.Version != "" {
		more["cniVersion"] = q.Version
	}
	if q.Prev != nil {
		more["prevResult"] = q.Prev
	}
	if q.Valid != nil {
		more["cni.dev/valid-attachments"] = q.Valid
	}
	if len(more) == 0 {
		return getenv, q.Config, nil // as it is, JSON or not
	}
	var all map[string]json.RawMessage
	err = json.Unmarshal([]byte(q.Config), &all)
	for key, v := range more {
		if err == nil {
			all[key], err = json.Marshal(v)
		}
	}
	if err != nil {
		return nil, "", fmt.Errorf("netconf of the test: %w", err)
	}
	b, err := json.Marshal(all)
	return getenv, string(b), err
}

// path is where other threads find a namespace that this process has open.
func path(ns *netns.NS) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd()) }

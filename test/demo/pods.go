//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/netns"
)

// engine does what containerd or podman do: it calls the plugins of a conflist through libcni.
type engine struct {
	cni  *libcni.CNIConfig
	list *libcni.NetworkConfigList
	errs bytes.Buffer // what plugins say to a person
}

func newEngine(bin, dir, conflist string) (*engine, error) {
	path := filepath.Join(dir, "demo.conflist")
	if err := os.WriteFile(path, []byte(conflist), 0o644); err != nil {
		return nil, err
	}
	list, err := libcni.NetworkConfFromFile(path)
	if err != nil {
		return nil, err
	}
	r := &engine{list: list}
	exec := &invoke.DefaultExec{RawExec: &invoke.RawExec{Stderr: &r.errs}, PluginDecoder: version.PluginDecoder{}}
	r.cni = libcni.NewCNIConfigWithCacheDir([]string{bin}, filepath.Join(dir, "cache"), exec)
	return r, nil
}

// pod is a container as a runtime knows it, with nothing in it but its namespace.
type pod struct {
	name  string
	ns    *netns.NS
	addrs []netip.Addr // after ADD
	gws   []netip.Addr
}

func newPod(name string) (*pod, error) {
	ns, err := netns.Create(name)
	if err != nil {
		return nil, err
	}
	return &pod{name: name, ns: ns}, up(ns, "lo")
}

// end is what a runtime does when the container has ended.
func (p *pod) end() error {
	if err := p.ns.Close(); err != nil {
		return err
	}
	return netns.Remove(p.name)
}

func (r *engine) args(p *pod) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: p.name, NetNS: p.ns.Path(), IfName: "eth0"}
}

func (r *engine) add(ctx context.Context, p *pod) (string, error) {
	res, err := r.cni.AddNetworkList(ctx, r.list, r.args(p))
	if err != nil {
		return "", r.explain(err)
	}
	var text bytes.Buffer
	if err := res.PrintTo(&text); err != nil {
		return "", err
	}
	ours, err := cni.ParseResult(text.Bytes())
	if err != nil {
		return "", err
	}
	var got []string
	p.addrs, p.gws = nil, nil
	for _, ip := range ours.IPs {
		p.addrs, p.gws = append(p.addrs, ip.Address.Addr()), append(p.gws, ip.Gateway)
		got = append(got, ip.Address.String())
	}
	if len(p.addrs) != 2 {
		return "", fmt.Errorf("ADD gave %d addresses instead of one of each family: %s", len(p.addrs), text.String())
	}
	return "eth0 with " + strings.Join(got, " and "), r.warnings()
}

func (r *engine) check(ctx context.Context, p *pod) error {
	return r.explain(r.cni.CheckNetworkList(ctx, r.list, r.args(p)))
}

func (r *engine) del(ctx context.Context, p *pod) error {
	return r.explain(r.cni.DelNetworkList(ctx, r.list, r.args(p)))
}

func (r *engine) status(ctx context.Context) error {
	return r.explain(r.cni.GetStatusNetworkList(ctx, r.list))
}

// explain adds what the plugins printed for a person, and fails on a warning: the demo's configuration deserves none.
func (r *engine) explain(err error) error {
	defer r.errs.Reset()
	if err == nil {
		return r.warnings()
	}
	return fmt.Errorf("%w\n%s", err, r.errs.String())
}

func (r *engine) warnings() error {
	if r.errs.Len() == 0 {
		return nil
	}
	return fmt.Errorf("a plugin printed: %s", r.errs.String())
}

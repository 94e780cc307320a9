//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/netns"
)

// state is everything that a plugin could leave on a node, one line an object.
type state []string

// observe reads the state of this process's namespace, which is the node's, and of directories. The firewall is read by
// another library than the plugins use.
func observe(ns *netns.NS, dirs ...string) (s state, err error) {
	c, err := rtnl.Open(ns)
	if err != nil {
		return nil, err
	}
	for _, read := range []func(*rtnl.Conn) (state, error){links, addrs, routes, firewall, func(*rtnl.Conn) (state, error) { return files(dirs) }} {
		part, err := read(c)
		if err != nil {
			return nil, err
		}
		s = append(s, part...)
	}
	slices.Sort(s)
	return s, nil
}

// settle waits until a link has its link-local address, and each of its IPv6 addresses its route: the kernel adds them in
// the background.
func settle(ctx context.Context, ns *netns.NS, link string) error {
	c, err := rtnl.Open(ns)
	if err != nil {
		return err
	}
	l, err := c.LinkByName(link)
	if err != nil {
		return err
	}
	for ; ; time.Sleep(5 * time.Millisecond) {
		if ok, err := settled(c, l.Index); ok || err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%s does not get its IPv6 addresses: %w", link, err)
		}
	}
}

func settled(c *rtnl.Conn, link int) (bool, error) {
	addrs, err := c.Addrs(link)
	if err != nil {
		return false, err
	}
	routes, err := c.Routes(rtnl.RouteFilter{Family: unix.AF_INET6, Link: link, Table: unix.RT_TABLE_LOCAL})
	if err != nil {
		return false, err
	}
	local := false
	for _, a := range addrs {
		ip := a.Prefix.Addr()
		if ip.Is4() {
			continue
		}
		local = local || ip.IsLinkLocalUnicast()
		if !slices.ContainsFunc(routes, func(r rtnl.Route) bool { return r.Dst == netip.PrefixFrom(ip, 128) }) {
			return false, nil
		}
	}
	return local, nil
}

func links(c *rtnl.Conn) (s state, err error) {
	all, err := c.Links("")
	for _, l := range all {
		s = append(s, fmt.Sprintf("link %s kind %q mac %s mtu %d flags %#x master %d group %d alias %q", l.Name, l.Kind, l.MAC, l.MTU,
			l.Flags&(unix.IFF_UP|unix.IFF_PROMISC), l.Master, l.Group, l.Alias))
	}
	return s, err
}

func addrs(c *rtnl.Conn) (s state, err error) {
	all, err := c.Addrs(0)
	for _, a := range all {
		s = append(s, fmt.Sprintf("address %s of link %d", a.Prefix, a.Link))
	}
	return s, err
}

// routes leaves out the anycast addresses of routers (RFC 4291, section 2.6.1): the kernel has them while it forwards.
func routes(c *rtnl.Conn) (s state, err error) {
	all, err := c.Routes(rtnl.RouteFilter{})
	for _, r := range all {
		if r.Type == unix.RTN_ANYCAST {
			continue
		}
		s = append(s, fmt.Sprintf("%s proto %d type %d", r, r.Proto, r.Type))
	}
	return s, err
}

// firewall lists what the nft program would, and the legacy tables that exist.
func firewall(*rtnl.Conn) (s state, err error) {
	c, err := nftables.New()
	if err != nil {
		return nil, err
	}
	tables, err := c.ListTables()
	if err != nil {
		return nil, err
	}
	for _, t := range tables {
		s = append(s, fmt.Sprintf("nft table %d %s", t.Family, t.Name))
		sets, err := c.GetSets(t)
		if err != nil {
			return nil, err
		}
		for _, set := range sets {
			if set.Anonymous {
				continue
			}
			elements, err := c.GetSetElements(set)
			if err != nil {
				return nil, err
			}
			s = append(s, fmt.Sprintf("nft set %d %s %s %s", t.Family, t.Name, set.Name, text(elements)))
		}
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil, err
	}
	for _, chain := range chains {
		s = append(s, fmt.Sprintf("nft chain %d %s %s", chain.Table.Family, chain.Table.Name, chain.Name))
		rules, err := c.GetRules(chain.Table, chain)
		if err != nil {
			return nil, err
		}
		for i, r := range rules {
			s = append(s, fmt.Sprintf("nft rule %d of %s %s: %s", i, chain.Table.Name, chain.Name, text(r.Exprs)))
		}
	}
	for _, f := range []string{"ip_tables_names", "ip6_tables_names"} {
		names, err := os.ReadFile("/proc/thread-self/net/" + f)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			return nil, err
		}
		for name := range strings.FieldsSeq(string(names)) {
			s = append(s, "legacy "+f+" "+name)
		}
	}
	return s, nil
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// files lists what is below directories, by name: what is in a file that belongs to a network may change with every pod.
func files(dirs []string) (s state, err error) {
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && path != dir {
				s = append(s, "file "+path)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return s, nil
}

// compare is an error that lists what is in one state only.
func compare(before, after state) error {
	var diff []string
	for _, line := range before {
		if !slices.Contains(after, line) {
			diff = append(diff, "missing: "+line)
		}
	}
	for _, line := range after {
		if !slices.Contains(before, line) {
			diff = append(diff, "left over: "+line)
		}
	}
	if len(diff) == 0 {
		return nil
	}
	return errors.New(strings.Join(diff, "\n"))
}

// added counts what is in after only, by kind.
func added(before, after state, prefix string) (n int) {
	for _, line := range after {
		if strings.HasPrefix(line, prefix) && !slices.Contains(before, line) {
			n++
		}
	}
	return n
}

//go:build linux

package scratch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// replyTimeout bounds the wait for the reply that shows that an attachment works.
const replyTimeout = 15 * time.Second

// Attachment is a pod of a world with the result of its ADD.
type Attachment struct {
	World  *World
	Pod    *Pod
	Raw    []byte // the result, for a prevResult
	IPs    []IP
	Host   []string // names of the interfaces on the node besides the bridge
	Leases string   // directory of the network's lease files
}

// IP is an address of a result.
type IP struct {
	Address netip.Prefix `json:"address"`
	Gateway netip.Addr   `json:"gateway"`
}

// ParseResult takes what ADD printed, of CNI 0.3.0 and later.
func ParseResult(w *World, p *Pod, leases, bridge string, out []byte) (*Attachment, error) {
	var result struct {
		Interfaces []struct{ Name, Sandbox string } `json:"interfaces"`
		IPs        []IP                             `json:"ips"`
	}
	if err := json.Unmarshal(out, &result); err != nil {
		return nil, fmt.Errorf("result of ADD: %w\n%s", err, out)
	}
	if len(result.IPs) == 0 {
		return nil, fmt.Errorf("result of ADD has no address: %s", out)
	}
	a := &Attachment{World: w, Pod: p, Raw: out, IPs: result.IPs, Leases: leases}
	for _, i := range result.Interfaces {
		if i.Sandbox == "" && i.Name != bridge {
			a.Host = append(a.Host, i.Name)
		}
	}
	return a, nil
}

// Works is nil if the pod has its addresses and default routes, reaches its gateways and, where SNAT is asked for, the
// outside, which has no route back to pods. lost counts echo requests that had to be repeated.
func (a *Attachment) Works(masq bool) (lost int, err error) {
	ns, err := a.Pod.NS()
	if err != nil {
		return 0, err
	}
	h, err := Links(ns)
	if err != nil {
		return 0, err
	}
	for _, ip := range a.IPs {
		if err := errors.Join(address(h, IfName, ip.Address), defaultRoute(h, ip.Gateway)); err != nil {
			return lost, err
		}
		targets := []netip.Addr{ip.Gateway}
		if masq {
			targets = append(targets, outside(ip.Address.Addr()))
		}
		for _, dst := range targets {
			_, again, err := a.Pod.Ping(dst, replyTimeout)
			if err != nil {
				return lost, fmt.Errorf("from the pod %s: %w", ip.Address.Addr(), err)
			}
			if again {
				lost++
			}
		}
	}
	return lost, nil
}

// Gone is nil if nothing of the attachment is left that a new one could meet: interfaces on both sides, leases.
func (a *Attachment) Gone() error {
	ns, err := a.Pod.NS()
	if err != nil {
		return err
	}
	if left, err := HasLink(ns, IfName); err != nil || left {
		return errors.Join(fmt.Errorf("after DEL: %s is in the pod: %t", IfName, left), err)
	}
	for _, name := range a.Host {
		if left, err := HasLink(a.World.Node, name); err != nil || left {
			return errors.Join(fmt.Errorf("after DEL: %s is on the node: %t", name, left), err)
		}
	}
	for _, ip := range a.IPs {
		lease := filepath.Join(a.Leases, ip.Address.Addr().String())
		if _, err := os.Lstat(lease); !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(fmt.Errorf("after DEL: the lease %s is still there", lease), err)
		}
	}
	return nil
}

func outside(like netip.Addr) netip.Addr {
	if like.Is4() {
		return OutsideAddrs[0].Addr()
	}
	return OutsideAddrs[1].Addr()
}

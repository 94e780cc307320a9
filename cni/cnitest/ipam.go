//go:build linux

package cnitest

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/cniblocks/cniblocks/cni"
)

// IPAM is a plugin that hands out stated addresses and remembers what it was asked, for the place of an IPAM plugin among
// [cni.Delegates]. It may be called from several goroutines.
type IPAM struct {
	// Leases are what the ADDs get, each the next: addresses, with their gateways, such as "10.1.0.2/24 via 10.1.0.1, fd00:1::2/64".
	// Where there are no more, ADD and STATUS fail with [cni.ErrTryAgain].
	Leases []string
	// Fail has the error that a verb fails with, in place of what it would do.
	Fail map[cni.Verb]error

	mu    sync.Mutex
	given int
	calls []*cni.Request
	held  []cni.Attachment
}

// Calls are the requests so far, oldest first, each with the verb of the method that was called.
func (p *IPAM) Calls() []*cni.Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.calls)
}

// Held are the attachments that have addresses: those of an ADD that succeeded, without a DEL or GC since.
func (p *IPAM) Held() []cni.Attachment {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.held)
}

// Add hands out the next lease.
func (p *IPAM) Add(_ context.Context, r *cni.Request) (*cni.Result, error) {
	res := &cni.Result{}
	return res, p.call(cni.ADD, r, func() error {
		if err := p.exhausted(); err != nil {
			return err
		}
		for words := range strings.SplitSeq(p.Leases[p.given], ",") {
			address, gateway, via := strings.Cut(strings.TrimSpace(words), " via ")
			ip := cni.IP{Interface: cni.NoInterface}
			var err error
			if ip.Address, err = netip.ParsePrefix(address); err == nil && via {
				ip.Gateway, err = netip.ParseAddr(gateway)
			}
			if err != nil {
				return fmt.Errorf("lease %q of the test: %w", p.Leases[p.given], err)
			}
			res.IPs = append(res.IPs, ip)
		}
		p.given, p.held = p.given+1, append(p.held, r.Attachment())
		return nil
	})
}

// Del takes the addresses of the attachment back.
func (p *IPAM) Del(_ context.Context, r *cni.Request) error {
	return p.call(cni.DEL, r, func() error { return p.release(func(a cni.Attachment) bool { return a == r.Attachment() }) })
}

// GC takes back what no valid attachment has.
func (p *IPAM) GC(_ context.Context, r *cni.Request) error {
	return p.call(cni.GC, r, func() error { return p.release(func(a cni.Attachment) bool { return !slices.Contains(r.Valid, a) }) })
}

// Check fails if the attachment has no addresses.
func (p *IPAM) Check(_ context.Context, r *cni.Request) error {
	return p.call(cni.CHECK, r, func() error {
		if !slices.Contains(p.held, r.Attachment()) {
			return fmt.Errorf("%v has no lease", r.Attachment())
		}
		return nil
	})
}

// Status fails if there is no lease for another ADD.
func (p *IPAM) Status(_ context.Context, r *cni.Request) error {
	return p.call(cni.STATUS, r, p.exhausted)
}

// call notes a request, and calls do unless it is to fail.
func (p *IPAM) call(verb cni.Verb, r *cni.Request, do func() error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := *r
	c.Verb = verb
	p.calls = append(p.calls, &c)
	if err := p.Fail[verb]; err != nil {
		return err
	}
	return do()
}

func (p *IPAM) exhausted() error {
	if p.given == len(p.Leases) {
		return cni.Errorf(cni.ErrTryAgain, "all %d leases of the test are handed out", p.given)
	}
	return nil
}

func (p *IPAM) release(gone func(cni.Attachment) bool) error {
	p.held = slices.DeleteFunc(p.held, gone)
	return nil
}

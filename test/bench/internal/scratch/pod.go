//go:build linux

package scratch

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/netns"
)

// IfName is the interface that pods are given.
const IfName = "eth0"

// Pod is a namespace that a plugin can attach, pinned below /run/netns.
type Pod struct {
	Name        string
	ContainerID string // 64 hex digits, as containerd's

	mu sync.Mutex
	ns *netns.NS // opened when first needed
}

// NS opens the namespace of the pod. It stays open until [Pod.Release].
func (p *Pod) NS() (*netns.NS, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ns == nil {
		ns, err := netns.Open(p.Path())
		if err != nil {
			return nil, err
		}
		p.ns = ns
	}
	return p.ns, nil
}

// Path is where the namespace is pinned.
func (p *Pod) Path() string { return filepath.Join(netns.Dir, p.Name) }

// Release closes what was opened to look into the pod: every open descriptor makes the start of a plugin slower.
func (p *Pod) Release() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ns == nil {
		return nil
	}
	err := p.ns.Close()
	p.ns = nil
	return err
}

// Call is the call of a verb for this pod.
func (p *Pod) Call(bin, plugin, verb string, conf []byte) Call {
	return Call{
		Bin: bin, Type: plugin, Verb: verb, ContainerID: p.ContainerID, Netns: p.Path(), IfName: IfName, Conf: conf,
	}
}

// Pods hands out pods. The zero value has none yet.
type Pods struct {
	all  []*Pod
	made int
}

// Get returns n pods, starting with the from-th; it makes those that are not there yet.
func (p *Pods) Get(from, n int) ([]*Pod, error) {
	for len(p.all) < from+n {
		name := fmt.Sprintf("pod%d", p.made)
		p.made++
		ns, err := netns.Create(name)
		if err != nil {
			return nil, fmt.Errorf("pod: %w", err)
		}
		if err := ns.Close(); err != nil {
			return nil, err
		}
		id := sha256.Sum256([]byte(name))
		p.all = append(p.all, &Pod{Name: name, ContainerID: hex.EncodeToString(id[:])})
	}
	return p.all[from : from+n], nil
}

// Discard ends all pods; Get makes others from then on.
func (p *Pods) Discard() error {
	var errs []error
	for _, pod := range p.all {
		errs = append(errs, pod.Release(), netns.Remove(pod.Name))
	}
	p.all = nil
	return errors.Join(errs...)
}

type handle struct{ *netlink.Handle }

func (h handle) Close() error {
	h.Handle.Close()
	return nil
}

// Links gives netlink access to a namespace; it is closed with it.
func Links(ns *netns.NS) (*netlink.Handle, error) {
	c, err := ns.Keep("netlink", func() (io.Closer, error) {
		var h *netlink.Handle
		err := ns.Do(func() (err error) {
			h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
			return err
		})
		return handle{h}, err
	})
	if err != nil {
		return nil, fmt.Errorf("netlink in %s: %w", ns.Path(), err)
	}
	return c.(handle).Handle, nil
}

// HasLink reports whether the namespace has a link of that name.
func HasLink(ns *netns.NS, name string) (bool, error) {
	h, err := Links(ns)
	if err != nil {
		return false, err
	}
	_, err = h.LinkByName(name)
	if missing := (netlink.LinkNotFoundError{}); errors.As(err, &missing) {
		return false, nil
	}
	return err == nil, err
}

// address reports whether the link of that name has the address, ready to use.
func address(h *netlink.Handle, name string, want netip.Prefix) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	addrs, err := h.AddrList(link, family(want.Addr()))
	if err != nil {
		return err
	}
	for _, a := range addrs {
		ip, _ := netip.AddrFromSlice(a.IP)
		bits, _ := a.Mask.Size()
		if netip.PrefixFrom(ip.Unmap(), bits) == want {
			return nil
		}
	}
	return fmt.Errorf("address %s is not on %s", want, name)
}

// defaultRoute reports whether there is a default route via the gateway.
func defaultRoute(h *netlink.Handle, gateway netip.Addr) error {
	routes, err := h.RouteList(nil, family(gateway))
	if err != nil {
		return err
	}
	for _, r := range routes {
		gw, _ := netip.AddrFromSlice(r.Gw)
		ones := 0
		if r.Dst != nil {
			ones, _ = r.Dst.Mask.Size()
		}
		if gw.Unmap() == gateway && ones == 0 {
			return nil
		}
	}
	return fmt.Errorf("no default route via %s", gateway)
}

func family(a netip.Addr) int {
	if a.Is6() {
		return netlink.FAMILY_V6
	}
	return netlink.FAMILY_V4
}

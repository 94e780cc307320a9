//go:build linux

package dhcp

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/rpc"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/coreos/go-systemd/v22/activation"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/plugins/dhcp/lease"
)

// StateDir is where the daemon notes its leases. It is emptied with /run when the machine boots, as no pod lives on.
const StateDir = "/run/cni/dhcp"

// Daemon keeps the leases of all pods of a node. A new one takes over those that the one before it noted.
type Daemon struct {
	Root      string // before the paths of the socket and of network namespaces; see --hostprefix
	Dir       string // of the notes, below Root; default [StateDir]
	Broadcast bool   // servers are to broadcast their answers
	Times     lease.Times
	Log       *slog.Logger

	ctx  context.Context // of the leases
	mu   sync.Mutex
	kept map[string]*kept // by client identifier
	all  sync.WaitGroup
}

// note is a lease on disk.
type note struct {
	ContainerID string        `json:"containerID"`
	Network     string        `json:"network"`
	IfName      string        `json:"ifname"`
	NetNS       string        `json:"netns"`
	Cookie      uint64        `json:"cookie"`
	Options     []noted       `json:"options,omitempty"`
	ACK         []byte        `json:"ack"`
	At          time.Duration `json:"at"`
	Withdrawn   bool          `json:"withdrawn,omitempty"`
}

type noted struct {
	Code  uint8  `json:"code"`
	Value []byte `json:"value"`
}

// kept is a lease that a goroutine keeps.
type kept struct {
	note
	client lease.Client
	end    context.CancelFunc
	ready  chan struct{} // closed when there is a lease, or err
	done   chan struct{} // closed when the goroutine has ended

	mu    sync.Mutex
	lease lease.Lease // without ACK: none yet
	err   error       // why there is none, and none will come
}

func (k *kept) now() (lease.Lease, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.lease, k.err
}

func (k *kept) id() string { return clientID(k.ContainerID, k.Network, k.IfName) }

// Listen opens the socket, or takes the one that systemd passes (sd_listen_fds(3)).
func (d *Daemon) Listen(socket string) (net.Listener, error) {
	passed, err := activation.Listeners()
	switch {
	case err != nil:
		return nil, err
	case len(passed) > 1:
		return nil, fmt.Errorf("%d sockets were passed by LISTEN_FDS; want one", len(passed))
	case len(passed) == 1 && passed[0] == nil:
		return nil, errors.New("what was passed by LISTEN_FDS is no socket that listens")
	case len(passed) == 1:
		return passed[0], nil
	}
	path := d.Root + socket
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("another daemon answers at %s; end it first", path)
	}
	if st, err := os.Lstat(path); err == nil && st.Mode().Type() == fs.ModeSocket { // of one that was killed
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	return l, os.Chmod(path, 0o660)
}

// Serve answers plugins until ctx is done. Leases stay, and are kept again by the next Daemon.
func (d *Daemon) Serve(ctx context.Context, l net.Listener) error {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Dir == "" {
		d.Dir = StateDir
	}
	d.Dir = d.Root + d.Dir
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d.ctx, d.kept = ctx, map[string]*kept{}
	if err := os.MkdirAll(d.Dir, 0o700); err != nil {
		return err
	}
	if err := d.load(); err != nil {
		return err
	}
	server := rpc.NewServer()
	if err := server.RegisterName("DHCP", &service{d}); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle(rpc.DefaultRPCPath, server)
	h := http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { h.Close() })
	defer stop()
	err := h.Serve(l)
	cancel()
	d.all.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (d *Daemon) file(id string) string {
	sum := sha256.Sum256([]byte(id))
	return filepath.Join(d.Dir, hex.EncodeToString(sum[:16])+".json")
}

// load takes over what was noted. A note that cannot be read is removed: its lease ends by itself.
func (d *Daemon) load() error {
	names, err := filepath.Glob(filepath.Join(d.Dir, "*.json"))
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, name := range names {
		b, err := os.ReadFile(name)
		var n note
		var ack *dhcpv4.DHCPv4
		if err == nil {
			err = json.Unmarshal(b, &n)
		}
		if err == nil {
			ack, err = dhcpv4.FromBytes(n.ACK)
		}
		if err != nil {
			d.Log.Warn("a noted lease cannot be read, and is left to end by itself", "file", name, "error", err)
			if err := os.Remove(name); err != nil {
				return err
			}
			continue
		}
		d.start(n, lease.Lease{ACK: ack, At: n.At, Withdrawn: n.Withdrawn}, netip.Addr{})
	}
	return nil
}

// start has a goroutine keep a lease, which it first gets if there is none, best the one of an address. d.mu is held.
func (d *Daemon) start(n note, l lease.Lease, want netip.Addr) *kept {
	ctx, end := context.WithCancel(d.ctx)
	k := &kept{note: n, lease: l, end: end, ready: make(chan struct{}), done: make(chan struct{})}
	k.client = lease.Client{NetNS: d.Root + n.NetNS, Cookie: n.Cookie, Link: n.IfName, ID: k.id(), Broadcast: d.Broadcast, Times: d.Times,
		Log: d.Log.With("container", n.ContainerID, "network", n.Network, "interface", n.IfName)}
	for _, o := range n.Options {
		k.client.Options = append(k.client.Options, dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(o.Code), o.Value))
	}
	d.kept[k.id()] = k
	d.all.Go(func() { d.run(ctx, k, want) })
	return k
}

func (d *Daemon) run(ctx context.Context, k *kept, want netip.Addr) {
	defer close(k.done)
	defer k.end()
	l, _ := k.now()
	if l.ACK == nil {
		got, err := k.client.Acquire(ctx, want)
		if err == nil {
			err = d.write(k, got)
		}
		if err != nil {
			k.mu.Lock()
			k.err = err
			k.mu.Unlock()
			d.forget(k)
			close(k.ready)
			return
		}
		l = got
		k.client.Log.Info("lease acquired", "address", l.ACK.YourIPAddr, "expires in", l.Expires().Round(time.Second))
	}
	close(k.ready)
	err := k.client.Keep(ctx, l, func(l lease.Lease) {
		if err := d.write(k, l); err != nil {
			k.client.Log.Error("the lease is not noted: it will not outlive this daemon", "error", err)
		}
	})
	if err != nil {
		k.client.Log.Info("the lease is no longer kept", "why", err)
		k.mu.Lock()
		k.err = err
		k.mu.Unlock()
		d.forget(k)
	}
}

// write sets the lease of k, and notes it.
func (d *Daemon) write(k *kept, l lease.Lease) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lease = l
	k.ACK, k.At, k.Withdrawn = l.ACK.ToBytes(), l.At, l.Withdrawn
	b, err := json.Marshal(k.note)
	if err != nil {
		return err
	}
	name := d.file(k.id())
	if err := os.WriteFile(name+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name) // in memory: what a crash leaves is the old file or the new one
}

// forget drops k, unless another one has taken its place.
func (d *Daemon) forget(k *kept) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.kept[k.id()] == k {
		delete(d.kept, k.id())
		_ = os.Remove(d.file(k.id()))
	}
}

// request is what a plugin asks.
type request struct {
	netconf
	Name string `json:"name"`
	Prev struct {
		IPs []struct{ Address string }
		IP4 struct{ IP string } // before CNI 0.3.0
	} `json:"prevResult"`
	Valid json.RawMessage `json:"cni.dev/valid-attachments"`
}

func read(args *skel.CmdArgs) (q request, err error) {
	if err := json.Unmarshal(args.StdinData, &q); err != nil {
		return q, fmt.Errorf("error parsing netconf: %w", err)
	}
	return q, nil
}

// had is the address that the attachment had, if the runtime tells.
func (q request) had() netip.Addr {
	for _, ip := range q.Prev.IPs {
		if p, err := netip.ParsePrefix(ip.Address); err == nil && p.Addr().Is4() {
			return p.Addr()
		}
	}
	p, _ := netip.ParsePrefix(q.Prev.IP4.IP)
	return p.Addr()
}

// allocate is the lease of an attachment: the one that is kept, or a new one.
func (d *Daemon) allocate(args *skel.CmdArgs, q request) (lease.Lease, error) {
	options, err := q.IPAM.options(args.Args)
	if err != nil {
		return lease.Lease{}, fmt.Errorf("netconf: %w", err)
	}
	n := note{ContainerID: args.ContainerID, Network: q.Name, IfName: args.IfName, NetNS: args.Netns}
	for _, o := range options {
		n.Options = append(n.Options, noted{o.Code.Code(), o.Value.ToBytes()})
	}
	ns, err := netns.Open(d.Root + args.Netns)
	if err != nil {
		return lease.Lease{}, err
	}
	n.Cookie, err = ns.Cookie()
	ns.Close()
	if err != nil {
		return lease.Lease{}, err
	}
	d.mu.Lock()
	k := d.kept[clientID(n.ContainerID, n.Network, n.IfName)]
	if k != nil && (k.Cookie != n.Cookie || k.NetNS != n.NetNS) { // the container was started anew
		k.end()
		k = nil
	}
	if k == nil {
		k = d.start(n, lease.Lease{}, q.had())
	}
	d.mu.Unlock()
	<-k.ready
	l, err := k.now()
	if err == nil {
		err = k.client.There(d.ctx)
	}
	if err == nil && l.Withdrawn {
		err = fmt.Errorf("the lease of %s has expired, and no server gives it again", l.ACK.YourIPAddr)
	}
	return l, err
}

// release gives the lease of an attachment back; had is its address where no lease of it is known. What cannot be told to
// the server is logged: the lease ends by itself.
func (d *Daemon) release(n note, had netip.Addr) {
	d.mu.Lock()
	k := d.kept[clientID(n.ContainerID, n.Network, n.IfName)]
	d.mu.Unlock()
	if k == nil {
		if n.NetNS == "" || !had.IsValid() {
			return
		}
		c := lease.Client{NetNS: d.Root + n.NetNS, Link: n.IfName, ID: clientID(n.ContainerID, n.Network, n.IfName), Broadcast: d.Broadcast,
			Times: lease.Times{Request: 2 * time.Second}, Log: d.Log}
		if err := c.Disown(d.ctx, had); err != nil {
			d.Log.Info("an address of which no lease is known is not given back", "container", n.ContainerID, "address", had, "why", err)
		}
		return
	}
	k.end()
	<-k.done
	if l, _ := k.now(); l.ACK != nil {
		if err := k.client.Release(d.ctx, l); err != nil {
			k.client.Log.Info("the lease is not given back, and ends by itself", "address", l.ACK.YourIPAddr, "why", err)
		} else {
			k.client.Log.Info("lease given back", "address", l.ACK.YourIPAddr)
		}
	}
	d.forget(k)
}

// retain gives back the leases of a network whose attachments are not valid any more.
func (d *Daemon) retain(q request) error {
	var list []struct{ ContainerID, IfName string }
	if err := json.Unmarshal(q.Valid, &list); err != nil {
		return fmt.Errorf(`netconf: key "cni.dev/valid-attachments": %w`, err)
	}
	valid := map[string]bool{}
	for _, a := range list {
		valid[clientID(a.ContainerID, q.Name, a.IfName)] = true
	}
	var gone []note
	d.mu.Lock()
	for id, k := range d.kept {
		if k.Network == q.Name && !valid[id] {
			gone = append(gone, note{ContainerID: k.ContainerID, Network: k.Network, IfName: k.IfName})
		}
	}
	d.mu.Unlock()
	for _, n := range gone {
		d.release(n, netip.Addr{})
	}
	return nil
}

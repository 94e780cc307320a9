//go:build linux

package lease

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/netns"
)

// Client is the DHCP client of one interface. NetNS, Link and ID are needed; zero times are those of [Defaults], and without a
// Log nothing is told of what is tried again.
type Client struct {
	NetNS     string // path of the network namespace
	Cookie    uint64 // which namespace the path is to lead to, see [netns.NS.Cookie]; 0: whichever it does
	Link      string
	ID        string          // client identifier; its type on the wire is 0 (RFC 2132, section 9.14)
	Options   []dhcpv4.Option // beside it, in every message that asks for a lease
	Broadcast bool            // servers are to broadcast their answers
	Times
	Log *slog.Logger
}

// Times are for how long a client tries.
type Times struct {
	Request   time.Duration // for one request, which is sent three times in it
	ResendMax time.Duration // the longest pause between two requests
	GiveUp    time.Duration // for a new lease, all requests
}

// Defaults are those of the reference's daemon.
var Defaults = Times{Request: 10 * time.Second, ResendMax: 62 * time.Second, GiveUp: 208 * time.Second}

// ErrGone is the error of a client whose interface is no longer there, or whose namespace.
var ErrGone = errors.New("the interface is gone")

var (
	errNAK   = errors.New("the server refuses the address (DHCPNAK)")
	everyone = &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpv4.ServerPort}
)

const tries = 3

// visit calls f with the namespace and the interface.
func (c Client) visit(ctx context.Context, f func(*netns.NS, link.Link) error) error {
	ns, err := netns.Open(c.NetNS)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	defer ns.Close()
	if c.Cookie != 0 {
		if is, err := ns.Cookie(); err != nil || is != c.Cookie {
			return errors.Join(fmt.Errorf("%w: another namespace is at %s", ErrGone, c.NetNS), err)
		}
	}
	l, err := link.Get(ctx, ns, c.Link)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: error looking up %q in %s: %w", ErrGone, c.Link, c.NetNS, err)
	}
	if err != nil {
		return err
	}
	return f(ns, l)
}

// There reports, by nil, that the interface is there; see [ErrGone].
func (c Client) There(ctx context.Context) error {
	return c.visit(ctx, func(*netns.NS, link.Link) error { return nil })
}

// with makes DHCP messages ours.
func (c Client) with(l link.Link, more ...dhcpv4.Modifier) []dhcpv4.Modifier {
	all := []dhcpv4.Modifier{
		dhcpv4.WithHwAddr(l.MAC[:]),
		dhcpv4.WithOption(dhcpv4.OptClientIdentifier(append([]byte{0}, c.ID...))),
	}
	for _, o := range c.Options {
		all = append(all, dhcpv4.WithOption(o))
	}
	return append(all, more...)
}

// open opens a client's socket: a raw one, which works without an address, or an ordinary one, by which messages take the
// routes that packets of the address take.
func (c Client) open(ctx context.Context, ns *netns.NS, l link.Link, raw bool) (n *nclient4.Client, conn net.PacketConn, err error) {
	err = ns.Do(func() (err error) {
		if raw {
			conn, err = nclient4.NewRawUDPConn(l.Name, nclient4.ClientPort)
			return err
		}
		bound := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
			return errors.Join(raw.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), l.Name) }), err)
		}}
		conn, err = bound.ListenPacket(ctx, "udp4", fmt.Sprint("0.0.0.0:", nclient4.ClientPort))
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("open a socket for DHCP on %s in %s: %w", c.Link, c.NetNS, err)
	}
	first := c.Request / (1<<tries - 1) // each try takes twice as long as the one before
	n, err = nclient4.NewWithConn(conn, l.MAC[:], nclient4.WithTimeout(first), nclient4.WithRetry(tries))
	if err != nil {
		conn.Close()
	}
	return n, conn, err
}

// Acquire gets an address, if it can be the one wanted, which may be zero. It sets the interface up if it is down.
func (c Client) Acquire(ctx context.Context, want netip.Addr) (l Lease, err error) {
	c = c.orDefaults()
	ctx, cancel := context.WithTimeout(ctx, c.GiveUp)
	defer cancel()
	err = c.insist(ctx, func() error {
		l, err = c.discover(ctx, want, false)
		return err
	})
	return l, err
}

// orDefaults is c without zero times, and with a log.
func (c Client) orDefaults() Client {
	if c.Request <= 0 {
		c.Request = Defaults.Request
	}
	if c.ResendMax <= 0 {
		c.ResendMax = Defaults.ResendMax
	}
	if c.GiveUp <= 0 {
		c.GiveUp = Defaults.GiveUp
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// insist calls f until it succeeds, the interface is gone or ctx is done: soon again at first, then with pauses that double
// and vary (RFC 2131, section 4.1), since many clients may ask at once.
func (c Client) insist(ctx context.Context, f func() error) error {
	for n := 0; ; n++ {
		err := f()
		if err == nil || errors.Is(err, ErrGone) {
			return err
		}
		pause := 2 * time.Second
		if n >= 4 {
			pause = min(4*time.Second<<min(n-4, 8), c.ResendMax)
		}
		pause += rand.N(2*time.Second) - time.Second
		c.Log.Warn("no lease", "error", err, "again in", pause.Round(time.Millisecond))
		select {
		case <-ctx.Done():
			return fmt.Errorf("no more tries: %w", err)
		case <-time.After(max(pause, 100*time.Millisecond)):
		}
	}
}

// discover asks all servers for an address. If only is set no other address than want will do.
func (c Client) discover(ctx context.Context, want netip.Addr, only bool) (got Lease, err error) {
	err = c.visit(ctx, func(ns *netns.NS, l link.Link) error {
		if !l.Up {
			if err := link.Apply(ctx, ns, link.Up(l.Index)); err != nil {
				return fmt.Errorf("set %s in %s up: %w", c.Link, c.NetNS, err)
			}
		}
		n, _, err := c.open(ctx, ns, l, true)
		if err != nil {
			return err
		}
		defer n.Close()
		all := c.with(l, dhcpv4.WithBroadcast(c.Broadcast))
		discover := all
		if want.IsValid() {
			discover = c.with(l, dhcpv4.WithBroadcast(c.Broadcast), dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(want.AsSlice())))
		}
		at := now()
		offer, err := n.DiscoverOffer(ctx, discover...)
		if err != nil {
			return fmt.Errorf("no DHCP server on the link of %s in %s offers an address: %w", c.Link, c.NetNS, err)
		}
		if only && ipv4(offer.YourIPAddr) != want {
			return fmt.Errorf("server %s offers %s in place of %s", offer.ServerIdentifier(), offer.YourIPAddr, want)
		}
		answer, err := n.RequestFromOffer(ctx, offer, all...)
		if err != nil {
			return err
		}
		got = Lease{ACK: answer.ACK, At: at}
		_, err = got.Prefix()
		return err
	})
	return got, err
}

// extend asks for more time: the server of the lease, or any. errNAK is its no.
func (c Client) extend(ctx context.Context, l Lease, any bool) (got Lease, err error) {
	err = c.visit(ctx, func(ns *netns.NS, dev link.Link) error {
		to := &net.UDPAddr{IP: l.ACK.ServerIdentifier(), Port: dhcpv4.ServerPort}
		right := nclient4.IsMessageType(dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak)
		if any {
			to = everyone
		} else {
			right = nclient4.IsAll(right, nclient4.IsCorrectServer(l.ACK.ServerIdentifier()))
		}
		request, err := dhcpv4.NewRenewFromAck(l.ACK, c.with(dev, dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(nclient4.MaxMessageSize)))...)
		if err != nil {
			return err
		}
		at := now()
		answer, err := c.ask(ctx, ns, dev, to, request, right)
		if err != nil {
			return fmt.Errorf("ask %s for more time: %w", to.IP, err)
		}
		if answer.MessageType() == dhcpv4.MessageTypeNak {
			return fmt.Errorf("%w: %s says %q of %s", errNAK, answer.ServerIdentifier(), answer.Message(), l.ACK.YourIPAddr)
		}
		// Some servers leave out in the answer to a renewal what has not changed.
		for code, value := range l.ACK.Options {
			if !answer.Options.Has(dhcpv4.GenericOptionCode(code)) && !isTime(code) {
				answer.Options[code] = value
			}
		}
		got = Lease{ACK: answer, At: at}
		return nil
	})
	return got, err
}

func isTime(code uint8) bool {
	return code == dhcpv4.OptionIPAddressLeaseTime.Code() || code == dhcpv4.OptionRenewTimeValue.Code() || code == dhcpv4.OptionRebindingTimeValue.Code()
}

// ask sends a request by way of the routes of the address, and if that cannot be, as a frame to all on the link.
func (c Client) ask(ctx context.Context, ns *netns.NS, dev link.Link, to *net.UDPAddr, request *dhcpv4.DHCPv4, right nclient4.Matcher) (*dhcpv4.DHCPv4, error) {
	var errs error
	for _, raw := range []bool{false, true} {
		n, _, err := c.open(ctx, ns, dev, raw)
		if err == nil {
			var answer *dhcpv4.DHCPv4
			answer, err = n.SendAndRead(ctx, to, request, right)
			n.Close()
			if err == nil {
				return answer, nil
			}
		}
		errs = errors.Join(errs, err)
	}
	return nil, errs
}

// Release gives the address back. The server does not answer; nil says that the message has left.
func (c Client) Release(ctx context.Context, l Lease) error {
	c = c.orDefaults()
	return c.visit(ctx, func(ns *netns.NS, dev link.Link) error {
		request, err := dhcpv4.NewReleaseFromACK(l.ACK, dhcpv4.WithHwAddr(dev.MAC[:]),
			dhcpv4.WithOption(dhcpv4.OptClientIdentifier(append([]byte{0}, c.ID...))))
		if err != nil {
			return err
		}
		to := &net.UDPAddr{IP: l.ACK.ServerIdentifier(), Port: dhcpv4.ServerPort}
		var errs error
		for _, raw := range []bool{false, true} {
			err := c.send(ctx, ns, dev, to, request, raw)
			if err == nil {
				return nil
			}
			errs = errors.Join(errs, err)
		}
		return fmt.Errorf("failed to send DHCPRELEASE to %s: %w", to.IP, errs)
	})
}

// send sends a message and waits until it has left: with the interface would go what waits for a neighbour's address.
func (c Client) send(ctx context.Context, ns *netns.NS, dev link.Link, to *net.UDPAddr, m *dhcpv4.DHCPv4, raw bool) error {
	n, conn, err := c.open(ctx, ns, dev, raw)
	if err != nil {
		return err
	}
	defer n.Close()
	if _, err := conn.WriteTo(m.ToBytes(), to); err != nil {
		return err
	}
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		return nil
	}
	fd, err := udp.SyscallConn()
	if err != nil {
		return err
	}
	for range 100 {
		var waiting int
		var failed error
		if err := fd.Control(func(fd uintptr) { waiting, failed = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ) }); err != nil || failed != nil {
			return errors.Join(err, failed)
		}
		if waiting == 0 {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return fmt.Errorf("no neighbour answers on the way to %s", to.IP)
}

// Disown gives back an address of which no lease is known any more, as after a change of the program that kept it: the
// server is found by asking for the same address.
func (c Client) Disown(ctx context.Context, a netip.Addr) error {
	c = c.orDefaults()
	return c.visit(ctx, func(ns *netns.NS, dev link.Link) error {
		n, _, err := c.open(ctx, ns, dev, true)
		if err != nil {
			return err
		}
		offer, err := n.DiscoverOffer(ctx, c.with(dev, dhcpv4.WithBroadcast(c.Broadcast), dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(a.AsSlice())))...)
		n.Close()
		if err != nil || ipv4(offer.YourIPAddr) != a {
			return err
		}
		return c.Release(ctx, Lease{ACK: offer})
	})
}

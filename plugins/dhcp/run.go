//go:build linux

package dhcp

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cniblocks/cniblocks/plugins/dhcp/lease"
)

// Settings are the daemon as a program.
type Settings struct {
	Daemon
	Socket  string // path of the socket, below Root
	PIDFile string // where to note the process; empty: nowhere
}

// Declare adds the options of the reference's daemon to f, and --state-dir.
func (s *Settings) Declare(f *flag.FlagSet) {
	f.StringVar(&s.Socket, "socketpath", Socket, "the `PATH` of the socket, unless systemd passes one")
	f.StringVar(&s.PIDFile, "pidfile", "", "the `PATH` of a file for the number of this process")
	f.StringVar(&s.Root, "hostprefix", "", "the `DIR` where the machine's root is mounted, in a container")
	f.StringVar(&s.Dir, "state-dir", StateDir, "the `DIR` where leases are noted for the next daemon")
	f.BoolVar(&s.Broadcast, "broadcast", false, "ask servers to broadcast their answers")
	f.DurationVar(&s.Times.Request, "timeout", lease.Defaults.Request, "the `TIME` for one request, which is sent three times in it")
	f.DurationVar(&s.Times.ResendMax, "resendmax", lease.Defaults.ResendMax, "the longest `TIME` between two requests")
	f.DurationVar(&s.Times.GiveUp, "resendtimeout", lease.Defaults.GiveUp, "the `TIME` after which an ADD fails for want of a lease")
}

// Check fails for options that cannot be.
func (s *Settings) Check() error {
	for name, path := range map[string]string{"socketpath": s.Socket, "state-dir": s.Dir, "pidfile": s.PIDFile} {
		if path == "" && name == "pidfile" {
			continue
		}
		if !filepath.IsAbs(path) {
			return fmt.Errorf("--%s is %q: want an absolute path", name, path)
		}
	}
	if s.Times.Request <= 0 || s.Times.ResendMax <= 0 || s.Times.GiveUp <= 0 {
		return fmt.Errorf("--timeout, --resendmax and --resendtimeout are %s, %s and %s: want times above 0, such as 10s", s.Times.Request, s.Times.ResendMax, s.Times.GiveUp)
	}
	return nil
}

// Run listens, notes the process, and serves until ctx is done.
func (s *Settings) Run(ctx context.Context) error {
	l, err := s.Listen(s.Socket)
	if err != nil {
		return err
	}
	defer l.Close()
	if s.PIDFile != "" {
		if err := os.WriteFile(s.PIDFile, fmt.Append(nil, os.Getpid()), 0o644); err != nil {
			return err
		}
		defer os.Remove(s.PIDFile)
	}
	return s.Serve(ctx, l)
}

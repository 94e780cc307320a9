//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cniblocks/cniblocks/agent"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/masq"
	"github.com/cniblocks/cniblocks/peer/file"
	"github.com/cniblocks/cniblocks/peer/flannel"
	"github.com/cniblocks/cniblocks/peer/kube"
)

const agentText = `Usage: cniblocks agent --source SOURCE [OPTIONS]

Keeps this node in step with the other nodes of its pod network: learns who they are, takes a range of
pod addresses where the source gives them out, makes devices, routes and SNAT, and mends at once what other
programs change. It writes the node file that the plugins read. When it is stopped everything stays as it is.

  sudo cniblocks agent --source file:/etc/cniblocks/peers.json --encap vxlan
  sudo cniblocks agent --source etcd://192.0.2.1:2379,192.0.2.2:2379
  sudo cniblocks agent --source kubernetes --net-conf /etc/kube-flannel/net-conf.json
  sudo cniblocks agent --config /etc/cniblocks/agent.json

A network in etcd, or with a net-conf.json, is flannel's: its configuration states the encapsulation, and nodes
with flanneld take part in it. With a file the prefixes and ranges are those of the file.

Every option may also stand in the environment, as CNIBLOCKS_NODE_IP for --node-ip, and in the configuration
file, as "node-ip"; the command line counts before the environment, and that before the file. The password for
etcd is never an option: see --etcd-password-file.

'cniblocks status' tells how it does. docs/agent.md tells more.
`

// agentCommand runs the node agent.
func agentCommand(ctx context.Context, args []string, out, errs io.Writer) int {
	o := newOptions("agent", agentText)
	var s settings
	s.declare(o)
	if _, status, done := o.read(args, 0, out, errs); done {
		return status
	}
	err := s.complete(o, os.LookupEnv)
	if err == nil {
		err = s.check()
	}
	if err != nil {
		fmt.Fprintf(errs, "cniblocks agent: %v; 'cniblocks agent --help' explains\n", err)
		return misuse
	}
	if err := s.run(ctx, errs); err != nil {
		return complain(errs, "agent", err)
	}
	return 0
}

func (s *settings) check() error {
	switch {
	case s.source == "":
		return errors.New("--source is missing: want file:PATH, etcd://HOST:PORT or kubernetes")
	case s.logFormat != "text" && s.logFormat != "json":
		return fmt.Errorf("--log-format is %q: want text or json", s.logFormat)
	case s.resync < 0:
		return fmt.Errorf("--resync is %s: want a time such as 3m", s.resync)
	case !slices.Contains([]string{"", "nftables", "iptables"}, s.ipMasqBackend):
		return fmt.Errorf("--ip-masq-backend is %q: want nftables or iptables", s.ipMasqBackend)
	case (s.conflistFrom == "") != (s.conflistTo == ""):
		return fmt.Errorf("--conflist-from is %q and --conflist-to is %q: state both", s.conflistFrom, s.conflistTo)
	}
	for _, n := range s.numbers {
		if n.number > n.most {
			return fmt.Errorf("--%s is %d: want at most %d", n.name, n.number, n.most)
		}
	}
	if err := rtnl.CheckMTU("--mtu", s.mtu); err != nil {
		return err
	}
	for name, device := range map[string]string{"device": s.device, "bridge": s.bridge} {
		if err := rtnl.CheckName(device); device != "" && err != nil {
			return fmt.Errorf("--%s: %w", name, err)
		}
	}
	s.Config.Bridge = s.bridge
	return s.password()
}

func (s *settings) password() error {
	if s.etcdPasswordFile == "" || s.etcdPassword != "" {
		return nil
	}
	b, err := os.ReadFile(s.etcdPasswordFile)
	if err != nil {
		return fmt.Errorf("--etcd-password-file: %w", err)
	}
	s.etcdPassword = strings.TrimRight(string(b), "\r\n")
	return nil
}

func (s *settings) logger(w io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: s.logLevel}
	if s.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

func (s *settings) run(ctx context.Context, w io.Writer) error {
	debug.SetGCPercent(25) // lists of thousands of peers come and go; memory counts more than time here
	trim()
	ns, err := openNS(s.netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	a := &agent.Agent{NS: ns, Network: s.network, Name: s.node,
		Endpoints: agent.Endpoints{Addrs: s.nodeIP, Interface: s.iface.Regexp, CanReach: s.canReach},
		SNAT:      agent.SNAT{Families: masq.Families(s.ipMasq), Backend: s.ipMasqBackend, Except: s.ipMasqExcept},
		Adopt:     s.adopt, StateDir: s.stateDir, DataDir: s.dataDir, LeaseDir: s.leaseDir, SysctlDir: s.sysctlDir,
		Conflist: agent.Conflist{From: s.conflistFrom, To: s.conflistTo}, Resync: s.resync, Log: s.logger(w)}
	end, err := s.open(a)
	if err != nil {
		return err
	}
	defer end()
	return s.serve(ctx, a)
}

// open connects the agent with its source. A store knows no name for this node but the one that it is given.
func (s *settings) open(a *agent.Agent) (end func(), err error) {
	kind, rest, _ := strings.Cut(s.source, ":")
	a.SourceName = s.source
	if kind != "file" && a.Name == "" {
		if a.Name, err = os.Hostname(); err != nil {
			return nil, err
		}
	}
	switch {
	case kind == "file" && rest != "":
		a.Source, a.Layout = file.Source{Path: rest}, s.own(s.podNetwork)
		if s.subnetFile != "-" {
			a.SubnetEnv = s.subnetFile
		}
		return func() {}, s.needEncap()
	case kind == "etcd" || kind == "etcds":
		return s.etcd(a)
	case kind == "kubernetes" && rest == "":
		return s.kubernetes(a)
	}
	return nil, fmt.Errorf("--source is %q: want file:PATH, etcd://HOST:PORT or kubernetes", s.source)
}

func (s *settings) kubernetes(a *agent.Agent) (end func(), err error) {
	store, err := kube.New(kube.Options{Kubeconfig: s.kubeconfig, NetConf: s.netConf, Prefix: s.annotations})
	if err != nil {
		return nil, err
	}
	a.Source, a.Registrar = store, store
	if s.netConf == "" {
		a.Layout = s.own(s.podNetwork)
		err = s.needEncap()
	} else {
		err = s.flannel(a, store.Config, store.WatchConfig)
	}
	return func() { _ = store.Close() }, err
}

// flannel has the network's own configuration say how it is built.
func (s *settings) flannel(a *agent.Agent, read func(context.Context) (flannel.Config, error), watch func(context.Context) iter.Seq2[flannel.Config, error]) error {
	if s.Encap != "" {
		return fmt.Errorf("--encap is %q: the configuration of the network states it there; leave it out", s.Encap)
	}
	a.FollowFlannel(read, watch)
	switch s.subnetFile {
	case "":
		a.SubnetEnv = flannel.SubnetEnvPath
	case "-":
	default:
		a.SubnetEnv = s.subnetFile
	}
	return nil
}

func (s *settings) needEncap() error {
	if s.Encap == "" {
		return errors.New("--encap is missing: want vxlan, gre, ipip, geneve, wireguard or host-gw")
	}
	_, err := s.Encapsulation()
	return err
}

// own is the layout that the options describe.
func (s *settings) own(pods prefixList) func(context.Context) (agent.Layout, error) {
	l := agent.Layout{Prefixes: pods, Tunnels: []agent.Tunnel{{Config: s.Config, Device: s.device,
		Underlay: s.underlay.Family, MTU: s.mtu, Table: uint32(s.table), Metric: uint32(s.metric)}}}
	if s.L2 {
		l.Tunnels[0].Bridge = s.bridge
	}
	return func(context.Context) (agent.Layout, error) { return l, nil }
}

// serve runs the agent with what others may ask of it.
func (s *settings) serve(ctx context.Context, a *agent.Agent) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	err := retry(ctx, func() error { // one that is being replaced may take a moment
		unlock, err := agent.Exclude(s.stateDir, s.network)
		if err == nil {
			unlock()
		}
		return err
	})
	if err != nil {
		return err
	}
	a.Begin = func() error {
		for _, at := range []string{"unix:" + filepath.Join(s.stateDir, s.network, "agent.sock"), s.listen} {
			if at == "" {
				continue
			}
			l, err := s.listenAt(ctx, at)
			if err != nil {
				return err
			}
			wg.Go(func() {
				if err := a.Serve(ctx, l); err != nil {
					a.Log.Error("nobody can ask the agent any more", "at", at, "error", err)
				}
			})
		}
		return nil
	}
	n := newNotifier(os.Getenv)
	var once sync.Once
	a.Alive = func(ready bool, what string) {
		n.alive(ready, what)
		if ready {
			once.Do(func() { time.AfterFunc(4*time.Second, trim) }) // of what only the start needed
		}
	}
	defer n.stopping()
	return a.Run(ctx)
}

// listenAt waits a moment for an agent that is being replaced.
func (s *settings) listenAt(ctx context.Context, at string) (l net.Listener, err error) {
	return l, retry(ctx, func() error {
		l, err = agent.Listen(at)
		return err
	})
}

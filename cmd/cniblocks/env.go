//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/node"
	"github.com/cniblocks/cniblocks/peer/flannel"
)

const envText = `Usage: cniblocks env [NETWORK] [--docker [--json | --variable NAME]] [OPTIONS]

Prints this node's range of a pod network as flannel's subnet.env has it; with --docker, the options by
which a plain Docker daemon gives its containers addresses of that range. Where the node agent or flanneld
masquerades what leaves the network, Docker is told not to.

What is known of the network is taken from /run/cniblocks/NETWORK/node.json, which the agent and the
plugins write. Without NETWORK it is the only one on this node; if there is none, /run/flannel/subnet.env.
Without an agent no MTU is known, and a subnet.env wants --mtu.

  sudo cniblocks env
  sudo cniblocks env pods --docker
  sudo cniblocks env --docker --json > /etc/docker/daemon.json
  sudo cniblocks env --docker --variable DOCKER_OPTS > /run/docker_opts.env

The last is for a unit of systemd with EnvironmentFile=/run/docker_opts.env and $DOCKER_OPTS behind dockerd.
A range is for Docker or for the pods of CNI plugins, not for both: each would give out what the other has.
`

func env(_ context.Context, args []string, out, errs io.Writer) int {
	o := newOptions("env", envText)
	docker := o.Bool("docker", false, "options of a Docker daemon")
	asJSON := o.Bool("json", false, "with --docker: in the form of daemon.json")
	variable := o.String("variable", "", "with --docker: as the value of a variable called `NAME`")
	mtu := o.Int("mtu", 0, "`BYTES`, in place of what is known of the network")
	var at envFinder
	o.StringVar(&at.netns, "netns", "", "the node's namespace, a `PATH` or a name of ip-netns(8); this one if not given")
	o.StringVar(&at.stateDir, "state-dir", node.DefaultStateDir, "where plugins keep state, a `DIR`")
	o.StringVar(&at.file, "subnet-file", "", "take a subnet.env at `PATH`, and no other")
	words, status, done := o.read(args, 1, out, errs)
	if done {
		return status
	}
	if wrong := wrongEnv(words, *docker, *asJSON, *variable, at.file); wrong != "" {
		fmt.Fprintf(errs, "cniblocks env: %s; 'cniblocks env --help' explains\n", wrong)
		return misuse
	}
	e, err := at.find(words)
	if err == nil && *mtu != 0 {
		e.MTU = *mtu
	}
	if err == nil {
		err = missingMTU(e, *docker)
	}
	if err != nil {
		return complain(errs, "env", err)
	}
	switch d := dockerFor(e); {
	case !*docker:
		_, _ = out.Write(e.Format())
	case *asJSON:
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		_ = enc.Encode(d)
	case *variable != "":
		fmt.Fprintf(out, "%s=\"%s\"\n", *variable, d)
	default:
		fmt.Fprintln(out, d)
	}
	return 0
}

func wrongEnv(words []string, docker, asJSON bool, variable, file string) string {
	switch {
	case len(words) > 0 && file != "":
		return "NETWORK and --subnet-file are both given; want one of them"
	case len(words) > 0 && !cni.ValidName(words[0]):
		return fmt.Sprintf("%q is no name of a network", words[0])
	case !docker && (asJSON || variable != ""):
		return "--json and --variable are forms of --docker"
	case asJSON && variable != "":
		return "--json and --variable are both given; want one of them"
	}
	return ""
}

// missingMTU: only plugins leave it out, which compute it for each pod.
func missingMTU(e flannel.SubnetEnv, docker bool) error {
	if e.MTU == 0 && docker {
		e.MTU = 1500 // the option is left out
	}
	if e.MTU == 0 {
		return errors.New("the MTU is not known, since no agent keeps the network; state --mtu, such as --mtu 1450 for VXLAN on links of 1500")
	}
	return e.Validate()
}

// envFinder says where to look.
type envFinder struct{ netns, stateDir, file string }

func (f envFinder) find(words []string) (flannel.SubnetEnv, error) {
	if f.file != "" {
		return flannel.ReadSubnetEnv(f.file)
	}
	ns, err := openNS(f.netns)
	if err != nil {
		return flannel.SubnetEnv{}, err
	}
	defer ns.Close()
	if len(words) > 0 {
		file, err := f.read(ns, words[0])
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w; start 'cniblocks agent', or attach a first pod, so that it is written", err)
		}
		return envOf(file), err
	}
	found, err := f.networks(ns)
	switch {
	case err != nil:
		return flannel.SubnetEnv{}, err
	case len(found) == 1:
		file, err := f.read(ns, found[0])
		return envOf(file), err
	case len(found) > 1:
		return flannel.SubnetEnv{}, fmt.Errorf("this node is in several networks: %s; say which", strings.Join(found, ", "))
	case !isMachines(ns):
		return flannel.SubnetEnv{}, fmt.Errorf("no network is known in %s; start 'cniblocks agent', or say --subnet-file", f.stateDir)
	}
	e, err := flannel.ReadSubnetEnv(flannel.SubnetEnvPath)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("no network is known: nothing in %s, and %w; start 'cniblocks agent' or flanneld", f.stateDir, err)
	}
	return e, err
}

func (f envFinder) read(ns *netns.NS, network string) (node.File, error) {
	return node.Read(ns, filepath.Join(node.Dir(f.stateDir, network), "node.json"))
}

// networks are those that this node is in.
func (f envFinder) networks(ns *netns.NS) (names []string, err error) {
	entries, err := os.ReadDir(f.stateDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		if _, err := f.read(ns, e.Name()); err == nil {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// envOf is what subnet.env would say: the first range of each family.
func envOf(f node.File) flannel.SubnetEnv {
	e := flannel.SubnetEnv{MTU: f.MTU, IPMasq: f.IPMasq}
	for _, family := range inet.Families {
		for _, p := range f.Network.Prefixes {
			if inet.FamilyOf(p.Addr()) == family {
				e.Networks = append(e.Networks, p)
			}
		}
		if own := f.Self.PodsOf(family); len(own) > 0 {
			e.Subnets = append(e.Subnets, own[0])
		}
	}
	return e
}

// dockerOptions are options of dockerd, by their names in daemon.json.
type dockerOptions struct {
	BIP         string `json:"bip,omitempty"`
	IPMasq      bool   `json:"ip-masq"`
	MTU         int    `json:"mtu,omitempty"`
	IPv6        bool   `json:"ipv6,omitempty"`
	FixedCIDRv6 string `json:"fixed-cidr-v6,omitempty"`
}

func dockerFor(e flannel.SubnetEnv) dockerOptions {
	d := dockerOptions{IPMasq: !e.IPMasq, MTU: e.MTU}
	for _, s := range e.Subnets {
		if s.Addr().Is4() {
			d.BIP = flannel.Gateway(s).String()
		} else {
			d.IPv6, d.FixedCIDRv6 = true, s.String()
		}
	}
	return d
}

// String is them on a command line.
func (d dockerOptions) String() string {
	var words []string
	if d.BIP != "" {
		words = append(words, "--bip="+d.BIP)
	}
	words = append(words, fmt.Sprintf("--ip-masq=%t", d.IPMasq))
	if d.MTU != 0 {
		words = append(words, fmt.Sprintf("--mtu=%d", d.MTU))
	}
	if d.IPv6 {
		words = append(words, "--ipv6", "--fixed-cidr-v6="+d.FixedCIDRv6)
	}
	return strings.Join(words, " ")
}

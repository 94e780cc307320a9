package kube

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/flannel"
)

// Options say where the cluster is. The zero value is a pod's own cluster, with flannel's annotations and without a
// configuration of the network.
type Options struct {
	Kubeconfig string // path of the file; "" is the service account of the pod that this is
	NetConf    string // path of flannel's net-conf.json; "" takes ranges of either family, wherever they are
	Prefix     string // of the annotations; "" is [flannel.AnnotationPrefix]
}

// Store is a cluster's Nodes. It has to be made by [New]; [Store.Acquire], [Store.Publish] and [Store.Lost] are for one
// node.
type Store struct {
	client  *client
	names   flannel.Annotations
	config  flannel.Config // the zero value if there is none
	netConf string         // the file that it is from
	poll    time.Duration  // of that file

	mu   sync.Mutex // held while this node is written
	mine own
}

var (
	_ peer.Source    = (*Store)(nil)
	_ peer.Registrar = (*Store)(nil)
)

// New reads the files that the options name. Nothing is sent yet.
func New(o Options) (*Store, error) { return open(o, nil) }

func open(o Options, dial dialer) (*Store, error) {
	names, err := flannel.NewAnnotations(o.Prefix)
	if err != nil {
		return nil, err
	}
	s := &Store{names: names, netConf: o.NetConf, poll: configPoll}
	if o.NetConf != "" {
		if s.config, err = readConfig(o.NetConf); err != nil {
			return nil, err
		}
	}
	if s.client, err = newClient(o.Kubeconfig, dial); err != nil {
		return nil, err
	}
	return s, nil
}

// Server is the address of the API server.
func (s *Store) Server() string { return s.client.server }

// Close ends the connections that are open and idle.
func (s *Store) Close() error {
	s.client.close()
	return nil
}

// wanted are those of a Node's ranges that are of a family which the network has.
func (s *Store) wanted(podCIDRs []string) []string {
	if s.config == (flannel.Config{}) {
		return podCIDRs
	}
	return slices.DeleteFunc(slices.Clone(podCIDRs), func(c string) bool {
		p, err := netip.ParsePrefix(c)
		switch inet.FamilyOf(p.Addr()) {
		case inet.IPv4:
			return !s.config.EnableIPv4
		case inet.IPv6:
			return !s.config.EnableIPv6
		}
		return err == nil // what is no range is for others to judge
	})
}

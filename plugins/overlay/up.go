package overlay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/base/lazyjson"
	"github.com/cniblocks/cniblocks/masq"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/node"
	"github.com/cniblocks/cniblocks/overlay"
	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/file"
)

// Report says what was done for one plugin of a configuration.
type Report struct {
	Network, Type, Encap string
	Self                 string   // name of this machine's peer
	MTU                  int      // bytes, for pods
	LeftOut              []string // peers that are left out, or a part of whom is, and why
	Warnings             []string // of other things, such as keys that are not known
}

// Up applies the peers of every overlay and host-gw in a conflist or netconf to ns, and repairs what is not as it should
// be. It is idempotent. A peer that is left out is an error, though all else is done; there is a Report only of what works.
func Up(ctx context.Context, ns *netns.NS, config []byte) ([]Report, error) {
	var reports []Report
	err := each(config, func(j *job) error {
		if err := j.identify(); err != nil {
			return err
		}
		rep := Report{Network: j.Network, Type: j.Type, Encap: j.Encap, Self: j.view.self.Name}
		if j.view.agent {
			return cni.Errorf(cni.ErrConfig, "network %q: the node agent keeps the peers; there is nothing to bring up by hand", j.Network)
		}
		bad, err := j.badPeers()
		if err != nil {
			return err
		}
		refused, err := j.repair(ctx)
		if err != nil {
			return err
		}
		rep.MTU = j.limit(j.node.MTU(peer.Peer{}))
		rep.Warnings = slices.DeleteFunc(j.Warnings(), func(w string) bool {
			return slices.ContainsFunc(bad, func(p *peer.Problem) bool { return w == warning(p) })
		})
		for _, p := range bad {
			rep.LeftOut = append(rep.LeftOut, p.Error())
		}
		for _, r := range refused {
			rep.LeftOut = append(rep.LeftOut, r.Error())
		}
		reports = append(reports, rep)
		if len(rep.LeftOut) > 0 {
			return fmt.Errorf("network %q: left out: %s", j.Network, strings.Join(rep.LeftOut, "; "))
		}
		return nil
	}, ns)
	return reports, err
}

// badPeers are the entries of the document that are no peers, whether or not an earlier call was told of them.
func (c *conf) badPeers() (peer.Problems, error) {
	var problems peer.Problems
	var err error
	if c.Peers != nil {
		_, problems, err = peer.Decode(c.Prefixes, c.Peers)
	} else {
		var doc file.Document
		doc, err = file.Load(c.PeersFile)
		problems = doc.Problems
	}
	bad, _ := problems.Split()
	return bad, err
}

// repair is apply with a look at everything in the kernel.
func (j *job) repair(ctx context.Context) ([]*overlay.Refused, error) {
	if _, err := j.bring(ctx); err != nil {
		return nil, err
	}
	peers, err := j.view.load()
	if err != nil {
		return nil, err
	}
	j.node.Want(peers)
	err = j.node.Repair(ctx)
	refused := overlay.OnlyRefused(err)
	if err != nil && refused == nil {
		return nil, err
	}
	rule, err := j.openSNAT(ctx)
	if err != nil || rule.None() {
		return refused, err
	}
	_, err = rule.Ensure(ctx, j.policy(nil))
	return refused, err
}

// Down removes what Up and the ADDs made for the node: devices, routes, SNAT, the state on disk. Pods stay as they are. It
// goes on after an error.
func Down(ctx context.Context, ns *netns.NS, config []byte) error {
	state := map[string]bool{}
	err := each(config, func(j *job) error {
		if err := j.identify(); err != nil {
			return err
		}
		if j.view.agent {
			return cni.Errorf(cni.ErrConfig, "network %q: its peers are from the node agent; stop that, then use 'cniblocks cleanup --network %[1]s'", j.Network)
		}
		state[node.Dir(j.StateDir, j.Network)] = true
		err := j.node.Close(ctx)
		if !carries(j.Kind(j.delegateType())) {
			err = errors.Join(err, masq.RemoveAll(ctx, ns, j.Network))
		}
		return err
	}, ns)
	for dir := range state {
		if err == nil {
			err = os.RemoveAll(dir)
		}
	}
	return err
}

// each calls f for every overlay and host-gw of a conflist or netconf, those that are delegates included.
func each(config []byte, f func(*job) error, ns *netns.NS) error {
	var list struct {
		Name    string            `json:"name"`
		Version string            `json:"cniVersion"`
		Type    string            `json:"type"`
		Plugins []json.RawMessage `json:"plugins"`
	}
	if err := lazyjson.Unmarshal(config, &list); err != nil {
		return cni.Errorf(cni.ErrDecode, "configuration: %w", err)
	}
	if list.Plugins == nil {
		list.Plugins = []json.RawMessage{config}
	}
	found := false
	var errs []error
	for _, raw := range list.Plugins {
		for raw != nil {
			var p lazyjson.Object
			if err := lazyjson.Unmarshal(raw, &p); err != nil {
				return cni.Errorf(cni.ErrDecode, "configuration: %w", err)
			}
			if err := errors.Join(p.Put("name", list.Name), p.Put("cniVersion", list.Version)); err != nil {
				return err
			}
			full, err := lazyjson.Marshal(p)
			if err != nil {
				return err
			}
			r, err := (&cni.Request{Verb: cni.ADD, Delegates: cni.Delegates{typeOverlay: Plugin{}, typeHostGW: Plugin{}}}).With(cni.ADD, full)
			if err != nil {
				return err
			}
			r.Type = r.Kind(r.Type)
			if !carries(r.Type) {
				break
			}
			found = true
			c, err := load(r)
			if err != nil {
				return err
			}
			errs = append(errs, f(&job{Request: r, conf: c, host: ns}))
			raw = inner(c, p)
		}
	}
	if !found {
		return cni.Errorf(cni.ErrConfig, `configuration of network %q: it has no plugin of type "overlay" or "host-gw"`, list.Name)
	}
	return errors.Join(errs...)
}

// inner is the delegate's configuration with what it inherits and what concerns the node.
func inner(c *conf, outer lazyjson.Object) json.RawMessage {
	var d lazyjson.Object
	if lazyjson.Unmarshal(c.Delegate, &d) != nil {
		return nil
	}
	for _, key := range []string{"stateDir", "ipMasq", "ipMasqBackend"} {
		if d[key] == nil && outer[key] != nil {
			d[key] = outer[key]
		}
	}
	b, err := lazyjson.Marshal(d)
	if err != nil {
		return nil
	}
	return b
}

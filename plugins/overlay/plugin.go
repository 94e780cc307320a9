// Package overlay is the CNI plugins "overlay" and "host-gw": they carry pods between machines, by tunnels or by plain
// routes, and leave the attachment of the pod to a delegate.
//
// Both take the peers from a file, from the configuration itself, or from what the node agent wrote. See
// docs/plugins/overlay.md.
package overlay

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"slices"

	"github.com/cniblocks/cniblocks/attach"
	"github.com/cniblocks/cniblocks/bridge"
	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/base/undo"
	"github.com/cniblocks/cniblocks/internal/kernel/rtnl"
	"github.com/cniblocks/cniblocks/link"
	"github.com/cniblocks/cniblocks/masq"
	"github.com/cniblocks/cniblocks/netns"
	"github.com/cniblocks/cniblocks/overlay"
	"github.com/cniblocks/cniblocks/peer"
)

// Plugin is overlay or host-gw, as the type in the configuration says. The zero value is ready to use.
type Plugin struct{}

var _ cni.Plugin = Plugin{}

// job is one request under way.
type job struct {
	*cni.Request
	*conf
	host     *netns.NS
	pod      *netns.NS // nil where none is needed
	delegate cni.Plugin
	view     view
	node     *overlay.Node // nil where the node agent keeps the peers
}

// begin validates the configuration and finds the delegate; nothing is changed.
func begin(r *cni.Request) (*job, error) {
	c, err := load(r)
	if err != nil {
		return nil, err
	}
	j := &job{Request: r, conf: c}
	if j.delegate, err = r.Delegate(c.delegateType()); err != nil {
		return nil, err
	}
	j.host, j.pod, err = r.Namespaces()
	return j, err
}

func (j *job) close() {
	j.host.Close()
	j.pod.Close()
}

// identify finds out who this machine is and prepares its part of the network.
func (j *job) identify() (err error) {
	if j.view, err = j.look(j.Request, j.host); err != nil || j.view.agent {
		return err
	}
	if j.encap == nil { // for GC, which takes a configuration as it is
		if j.encap, err = j.encapsulation(); err != nil {
			return err
		}
	}
	j.node, err = overlay.New(overlay.Options{
		NS: j.host, Network: j.Network, Node: j.view.self, Prefixes: j.view.prefixes, Underlay: j.underlay(),
		Table: j.Table, Metric: j.Metric, MTU: j.MTU, Device: j.Device, StateDir: j.StateDir,
	}, j.encap)
	if err != nil {
		return cni.Errorf(cni.ErrConfig, "netconf: %w", err)
	}
	return nil
}

// apply brings the kernel in step with the peers, if anything changed, and returns the MTU for pods.
func (j *job) apply(ctx context.Context) (mtu int, err error) {
	if j.view.agent {
		return j.limit(j.view.mtu), nil
	}
	refused, err := j.bring(ctx)
	if err != nil && cni.CodeOf(err) == cni.ErrIO && j.ready(ctx) != nil {
		err = cni.Errorf(cni.ErrTryAgain, "%w", err) // as with the node agent
	}
	for _, r := range refused {
		j.Warn("%v", r)
	}
	return j.limit(j.node.MTU(peer.Peer{})), err
}

// bring is apply where there is no agent. It returns the peers that are left out.
func (j *job) bring(ctx context.Context) ([]*overlay.Refused, error) {
	if j.L2 {
		if _, err := bridge.Ensure(ctx, j.host, bridge.Bridge{Name: j.delegateBridge(), Alias: link.NetworkAlias(j.Network)}); err != nil {
			return nil, err
		}
	}
	_, err := j.node.Apply(ctx, j.view.id, j.view.load)
	if refused := overlay.OnlyRefused(err); refused != nil {
		return refused, nil
	}
	return nil, err
}

func (j *job) limit(mtu int) int {
	if j.MaxMTU != 0 && (mtu == 0 || j.MaxMTU < mtu) {
		return j.MaxMTU
	}
	return mtu
}

// Add makes the overlay right, if anything changed since the last time, and has the delegate attach the pod.
func (Plugin) Add(ctx context.Context, r *cni.Request) (_ *cni.Result, err error) {
	j, err := begin(r)
	if err != nil {
		return nil, err
	}
	defer j.close()
	if err := j.identify(); err != nil {
		return nil, err
	}
	rule, err := j.openSNAT(ctx)
	if err != nil {
		return nil, err
	}
	release, err := j.claim(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	mtu, err := j.apply(ctx)
	if err != nil {
		return nil, err
	}
	to, err := j.forDelegate(cni.ADD, &j.view, mtu)
	if err != nil {
		return nil, err
	}
	res, err := j.delegate.Add(ctx, to)
	if err != nil && cni.Linked(j.delegate) {
		return nil, err // it has undone what it did
	}
	if err == nil && !rule.None() {
		_, err = rule.Ensure(ctx, j.policy(res.IPs))
	}
	if err != nil {
		return nil, undo.Back(ctx, err, func(ctx context.Context) error { return errors.Join(j.delegate.Del(ctx, to), j.forget(ctx)) })
	}
	return res, nil
}

// claim makes sure that the pod does not have the interface yet, and keeps other ADDs of it waiting until it is released:
// when another's program fails its DEL is called, which must not take what an earlier ADD made. Delegates that are linked
// in undo what they did themselves, and no more.
func (j *job) claim(ctx context.Context) (release func(), err error) {
	if cni.Linked(j.delegate) {
		return func() {}, nil
	}
	release, err = j.pod.Lock(ctx)
	if err != nil {
		return nil, err
	}
	c, err := rtnl.Open(j.pod)
	if err == nil {
		_, err = c.LinkByName(j.IfName)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return release, nil
	case err == nil:
		err = cni.Errorf(cni.ErrConfig, "CNI_IFNAME=%s of container %s: it has an interface of that name; call DEL first, or choose another name: %w",
			j.IfName, j.ContainerID, fs.ErrExist)
	}
	release()
	return nil, err
}

// lookNow finds out this machine's ranges where they are known, so that the bridge sees which gateways are former ones. Nothing
// else of DEL and GC needs them.
func (j *job) lookNow() {
	if j.Kind(j.delegateType()) != "bridge" || j.least {
		return
	}
	v, err := j.look(j.Request, j.host)
	if err == nil {
		_, err = j.pools(&v)
	}
	if err == nil {
		j.now = &v
	}
}

func (j *job) forDelegate(verb cni.Verb, v *view, mtu int) (*cni.Request, error) {
	conf, err := j.delegateConf(j.Request, v, mtu)
	if err != nil {
		return nil, err
	}
	to, err := j.With(verb, conf)
	if err == nil {
		to.Lend(j.host, j.pod)
	}
	return to, err
}

// Del has the delegate take the attachment away. The overlay is the node's and stays; neither the peers nor the state
// directory are needed.
func (Plugin) Del(ctx context.Context, r *cni.Request) error {
	j, err := begin(r)
	if err != nil {
		return err
	}
	defer j.close()
	j.lookNow()
	to, err := j.forDelegate(cni.DEL, nil, 0)
	if err != nil {
		return err
	}
	return errors.Join(j.delegate.Del(ctx, to), j.forget(ctx))
}

// Check has the delegate check the attachment, and compares the overlay and the SNAT with what they should be. It names
// every difference, in this order.
func (Plugin) Check(ctx context.Context, r *cni.Request) error {
	j, err := begin(r)
	if err != nil {
		return err
	}
	defer j.close()
	if err := j.identify(); err != nil {
		return err
	}
	mtu, overlay := j.checkOverlay(ctx)
	to, err := j.forDelegate(cni.CHECK, &j.view, mtu)
	if err == nil {
		err = j.delegate.Check(ctx, to)
	}
	return errors.Join(err, overlay, j.checkSNAT(ctx))
}

func (j *job) checkSNAT(ctx context.Context) error {
	rule, err := j.openSNAT(ctx)
	if err != nil || rule.None() {
		return err
	}
	return rule.Check(ctx, j.policy(j.PrevIPs()))
}

func (j *job) checkOverlay(ctx context.Context) (mtu int, err error) {
	if j.view.agent {
		return j.limit(j.view.mtu), nil
	}
	peers, err := j.view.load()
	if err != nil {
		return 0, err
	}
	j.node.Want(peers)
	if err = j.node.Check(ctx); overlay.OnlyRefused(err) != nil {
		err = nil
	}
	return j.limit(j.node.MTU(peer.Peer{})), err
}

// Status fails if an ADD could not succeed now.
func (Plugin) Status(ctx context.Context, r *cni.Request) error {
	j, err := begin(r)
	if err != nil {
		return cni.Unavailable(err)
	}
	defer j.close()
	if err := j.identify(); err != nil {
		return cni.Unavailable(err)
	}
	if err := j.ready(ctx); err != nil {
		return cni.Unavailable(err)
	}
	if _, err := j.openSNAT(ctx); err != nil {
		return cni.Unavailable(err)
	}
	to, err := j.forDelegate(cni.STATUS, &j.view, 0)
	if err != nil {
		return err
	}
	return j.delegate.Status(ctx, to)
}

// ready fails if packets of pods cannot be carried to other machines now. The node agent says so itself, see [conf.lookAgent].
func (j *job) ready(ctx context.Context) error {
	if j.view.agent {
		return nil
	}
	peers, err := j.view.load()
	if err != nil {
		return err
	}
	j.node.Want(peers)
	if err = j.node.Ready(ctx); j.L2 && errors.Is(err, fs.ErrNotExist) {
		return nil // the bridge, which ADD makes
	}
	return err
}

// GC has the delegate collect its garbage. The overlay is the node's and stays, with the last pod too.
func (Plugin) GC(ctx context.Context, r *cni.Request) error {
	j, err := begin(r)
	if err != nil {
		return err
	}
	defer j.close()
	j.lookNow()
	to, err := j.forDelegate(cni.GC, nil, 0)
	if err != nil {
		return err
	}
	err = j.delegate.GC(ctx, to)
	if carries(j.Kind(j.delegateType())) {
		return err
	}
	return errors.Join(err, j.shrinkSNAT(ctx))
}

// openSNAT finds the backend, unless the delegate is one of ours that does it.
func (j *job) openSNAT(ctx context.Context) (attach.Rule, error) {
	if !j.IPMasq.Any() || carries(j.Kind(j.delegateType())) {
		return attach.Rule{}, nil
	}
	rule, err := attach.OpenRule(ctx, j.host, j.IPMasqBackend, j.policy(nil))
	rule.Pass = j.view.prefixes
	return rule, err
}

// policy masquerades this machine's ranges, without the node's own addresses in them, for destinations outside of the
// network; an address that a delegate's own IPAM gave from elsewhere is added by itself.
func (j *job) policy(ips []cni.IP) masq.Policy {
	p := attach.Outward(j.Network, j.view.self.Pods, append(slices.Clone(j.view.prefixes), j.IPMasqExcept...), j.IPMasq)
	for _, ip := range ips {
		a := ip.Address.Addr()
		if !has(j.view.self.Pods, a.Is4()) || !within(j.view.self.Pods, a) {
			if j.IPMasq.Has(a.Is4()) {
				p.Pods = append(p.Pods, masq.Pod{Owner: attach.Owner(j.Attachment()), Addr: a})
			}
		}
	}
	return p
}

func within(ranges []netip.Prefix, a netip.Addr) bool {
	for _, r := range ranges {
		if r.Contains(a) {
			return true
		}
	}
	return false
}

// forget removes what an attachment has in the SNAT by itself, which only one has whose addresses another IPAM gave.
func (j *job) forget(ctx context.Context) error {
	if !j.IPMasq.Any() || carries(j.Kind(j.delegateType())) || !j.delegateHasIPAM() {
		return nil
	}
	return attach.Forget(ctx, j.host, j.Network, attach.Owner(j.Attachment()))
}

// shrinkSNAT takes away what no attachment needs any more. As long as there are some, the rule of the network stays
// without a gap; it goes with the last, or when masquerading is no longer configured.
func (j *job) shrinkSNAT(ctx context.Context) error {
	if len(j.Valid) == 0 || !j.least && !j.IPMasq.Any() {
		return attach.Shrink(ctx, j.Request, j.host, attach.Rule{}, masq.Policy{})
	}
	if j.identify() != nil {
		return nil // what valid attachments need is not known
	}
	rule, err := j.openSNAT(ctx)
	if err != nil || rule.None() {
		return err
	}
	return attach.Shrink(ctx, j.Request, j.host, rule, j.policy(nil))
}

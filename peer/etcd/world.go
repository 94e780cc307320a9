package etcd

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/cniblocks/cniblocks/peer/flannel"
)

// world is what is taken, all of one revision.
type world struct {
	leases  []*hold
	keys    map[string]bool // below subnets, whatever they are
	claimed map[string]*mvccpb.KeyValue
}

// look reads the leases and the claims in one call.
func (s *Store) look(ctx context.Context) (*world, error) {
	var r *clientv3.TxnResponse
	err := s.retry(ctx, "read the leases", func(ctx context.Context, c *clientv3.Client) (err error) {
		r, err = c.Txn(ctx).Then(clientv3.OpGet(s.subnets(), clientv3.WithPrefix()), clientv3.OpGet(s.claimsAt(), clientv3.WithPrefix())).Commit()
		return err
	})
	if err != nil {
		return nil, err
	}
	w := &world{keys: map[string]bool{}, claimed: map[string]*mvccpb.KeyValue{}}
	for _, kv := range r.Responses[0].GetResponseRange().Kvs {
		w.keys[string(kv.Key[len(s.subnets()):])] = true
		if h := holdOf(s.subnets(), kv); h != nil {
			w.leases = append(w.leases, h)
		}
	}
	for _, kv := range r.Responses[1].GetResponseRange().Kvs {
		w.claimed[string(kv.Key)] = kv
	}
	return w, nil
}

// own is the lease of this node: that of its etcd lease, else the oldest with one of its addresses.
func (w *world) own(st state, attrs flannel.Attrs) *hold {
	var found *hold
	for _, h := range w.leases {
		if st.Lease != 0 && h.lease == clientv3.LeaseID(st.Lease) {
			return h.copy()
		}
		if (found == nil || h.create < found.create) && meet(h.addrs, addrs(attrs)) {
			found = h
		}
	}
	return found.copy()
}

func (h *hold) copy() *hold {
	if h == nil {
		return nil
	}
	c := *h
	return &c
}

func meet(a, b []netip.Addr) bool {
	return slices.ContainsFunc(a, func(x netip.Addr) bool { return slices.Contains(b, x) })
}

// rival is an older lease that overlaps h, if there is one.
func (w *world) rival(h *hold) *hold {
	for _, o := range w.leases {
		if o.key != h.key && o.create < h.create && overlap(o.Pods(), h.Pods()) {
			return o
		}
	}
	return nil
}

func overlap(a, b []netip.Prefix) bool {
	return slices.ContainsFunc(a, func(r netip.Prefix) bool { return slices.ContainsFunc(b, r.Overlaps) })
}

// taken are the ranges of all leases but own, and of the claims that hold.
func (w *world) taken(own *hold) []netip.Prefix {
	var all []netip.Prefix
	for _, h := range w.leases {
		if own == nil || h.key != own.key {
			all = append(all, h.Pods()...)
		}
	}
	for key, kv := range w.claimed {
		of := string(kv.Value)
		if r := claimed(key); r.IsValid() && w.keys[of] && (own == nil || of != own.key) {
			all = append(all, r)
		}
	}
	return all
}

// claimed is the range that a claim is for.
func claimed(key string) netip.Prefix {
	name := key[strings.LastIndexByte(key, '/')+1:]
	i := max(strings.LastIndexByte(name, '-'), 0)
	r, _ := netip.ParsePrefix(name[:i] + "/" + name[min(i+1, len(name)):]) // what is none is the zero Prefix
	return r
}

func (s *Store) claimsAt() string { return claimsPrefix + s.o.Prefix + "/" }

func (s *Store) claimKey(r netip.Prefix) string { return s.claimsAt() + flannel.KeyOf(r) }

// claims are the conditions under which the ranges of h may be claimed for it, and the writes that do so. A claim says for
// which lease it is: where that lease is gone, or is old, which h replaces, the claim is void.
func (w *world) claims(s *Store, h, old *hold) (when []clientv3.Cmp, then []clientv3.Op) {
	for _, r := range h.Pods() {
		key := s.claimKey(r)
		seen := w.claimed[key]
		if seen == nil {
			when = append(when, clientv3.Compare(clientv3.CreateRevision(key), "=", 0))
		} else {
			when = append(when, clientv3.Compare(clientv3.ModRevision(key), "=", seen.ModRevision))
			if of := string(seen.Value); of != h.key && (old == nil || of != old.key) {
				when = append(when, clientv3.Compare(clientv3.CreateRevision(s.subnets()+of), "=", 0))
			}
		}
		then = append(then, clientv3.OpPut(key, h.key, clientv3.WithLease(h.lease)))
	}
	if old == nil {
		return when, then
	}
	for _, r := range old.Pods() { // what the new lease does not go on with
		key := s.claimKey(r)
		if seen := w.claimed[key]; seen != nil && string(seen.Value) == old.key && !slices.Contains(h.Pods(), r) {
			when = append(when, clientv3.Compare(clientv3.ModRevision(key), "=", seen.ModRevision))
			then = append(then, clientv3.OpDelete(key))
		}
	}
	return when, then
}

// claim writes the claims that a lease lacks: one that flanneld made, or whose etcd lease is another one now. It reports
// whether the lease was still as it had been seen.
func (s *Store) claim(ctx context.Context, w *world, h *hold) (bool, error) {
	when := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(s.subnets()+h.key), "=", h.mod)}
	var then []clientv3.Op
	for _, r := range h.Pods() {
		key := s.claimKey(r)
		seen := w.claimed[key]
		switch {
		case seen == nil:
			when = append(when, clientv3.Compare(clientv3.CreateRevision(key), "=", 0))
		case string(seen.Value) != h.key && w.keys[string(seen.Value)]:
			continue // that of a younger lease, which everyone ignores
		case string(seen.Value) == h.key && seen.Lease == int64(h.lease):
			continue
		default:
			when = append(when, clientv3.Compare(clientv3.ModRevision(key), "=", seen.ModRevision))
		}
		then = append(then, clientv3.OpPut(key, h.key, clientv3.WithLease(h.lease)))
	}
	if len(then) == 0 {
		return true, nil
	}
	var done *clientv3.TxnResponse
	err := s.retry(ctx, "claim "+h.key, func(ctx context.Context, c *clientv3.Client) (err error) {
		done, err = c.Txn(ctx).If(when...).Then(then...).Commit()
		return err
	})
	if err != nil {
		return false, err
	}
	return done.Succeeded, nil
}

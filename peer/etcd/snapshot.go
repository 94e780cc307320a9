package etcd

import (
	"bytes"
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/cniblocks/cniblocks/peer/flannel"
)

// snapshot is what is taken, all of one revision.
type snapshot struct {
	subnets  string
	revision int64
	keys     []*mvccpb.KeyValue // below subnets, whatever they are; by key, as etcd lists them
	leases   []taken            // of them
	claimed  []*mvccpb.KeyValue // by key
}

// taken are the ranges of a lease, as its key says.
type taken struct {
	kv    *mvccpb.KeyValue
	pods  [2]netip.Prefix // the first may be the zero Prefix, and so may the second
	lease clientv3.LeaseID
}

// look reads the leases and the claims in one call.
func (s *Store) look(ctx context.Context) (*snapshot, error) {
	var r *clientv3.TxnResponse
	err := s.retry(ctx, "read the leases", func(ctx context.Context, c *clientv3.Client) (err error) {
		r, err = c.Txn(ctx).Then(clientv3.OpGet(s.subnets(), clientv3.WithPrefix()), clientv3.OpGet(s.claimsAt(), clientv3.WithPrefix())).Commit()
		return err
	})
	if err != nil {
		return nil, err
	}
	w := &snapshot{subnets: s.subnets(), revision: r.Header.Revision, claimed: r.Responses[1].GetResponseRange().Kvs}
	w.add(r.Responses[0].GetResponseRange().Kvs)
	return w, nil
}

// since reads the leases that were made after a revision, without what is in them.
func (s *Store) since(ctx context.Context, revision int64) (*snapshot, error) {
	w := &snapshot{subnets: s.subnets()}
	return w, s.retry(ctx, "read the leases again", func(ctx context.Context, c *clientv3.Client) error {
		r, err := c.Get(ctx, s.subnets(), clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithMinCreateRev(revision+1))
		if err == nil {
			w.add(r.Kvs)
		}
		return err
	})
}

func (w *snapshot) add(keys []*mvccpb.KeyValue) {
	w.keys, w.leases = keys, make([]taken, 0, len(keys))
	for _, kv := range keys {
		if l, err := flannel.ParseKey(string(kv.Key[len(w.subnets):])); err == nil {
			w.leases = append(w.leases, taken{kv, [2]netip.Prefix{l.Subnet, l.IPv6Subnet}, clientv3.LeaseID(kv.Lease)})
		}
	}
}

// Pods are the ranges.
func (t *taken) Pods() []netip.Prefix {
	return flannel.Lease{Subnet: t.pods[0], IPv6Subnet: t.pods[1]}.Pods()
}

func (t *taken) overlaps(pods []netip.Prefix) bool {
	return slices.ContainsFunc(pods, func(p netip.Prefix) bool {
		return t.pods[0].IsValid() && t.pods[0].Overlaps(p) || t.pods[1].IsValid() && t.pods[1].Overlaps(p)
	})
}

// named is the place of a key.
func named(all []*mvccpb.KeyValue, key string) (*mvccpb.KeyValue, bool) {
	i, ok := slices.BinarySearchFunc(all, key, func(kv *mvccpb.KeyValue, key string) int { return cmp.Compare(string(kv.Key), key) })
	if !ok {
		return nil, false
	}
	return all[i], true
}

// has reports whether there is a key below subnets.
func (w *snapshot) has(key string) bool {
	_, ok := named(w.keys, w.subnets+key)
	return ok
}

// own is the lease of this node: that of its etcd lease, else the oldest with one of its addresses.
func (w *snapshot) own(st state, attrs flannel.Attrs) *hold {
	var found *hold
	mine := addrs(attrs)
	for _, t := range w.leases {
		if st.Lease != 0 && t.lease == clientv3.LeaseID(st.Lease) {
			return holdOf(w.subnets, t.kv)
		}
		if (found == nil || t.kv.CreateRevision < found.create) && mayHave(t.kv.Value, mine) {
			if h := holdOf(w.subnets, t.kv); meet(h.addrs, mine) {
				found = h
			}
		}
	}
	return found
}

// mayHave reports whether one of the addresses may be in a value, which then has to be read: an IPv4 address is written in
// one way only, unless it is escaped.
func mayHave(value []byte, addrs []netip.Addr) bool {
	return bytes.IndexByte(value, '\\') >= 0 || slices.ContainsFunc(addrs, func(a netip.Addr) bool {
		if a.Is4() {
			return bytes.Contains(value, []byte(a.String()))
		}
		return !bytes.Contains(value, []byte(`"PublicIPv6":null`))
	})
}

func meet(a, b []netip.Addr) bool {
	return slices.ContainsFunc(a, func(x netip.Addr) bool { return slices.Contains(b, x) })
}

// rival is the key of an older lease that overlaps h, "" if there is none.
func (w *snapshot) rival(h *hold) string {
	for _, t := range w.leases {
		if key := string(t.kv.Key[len(w.subnets):]); key != h.key && t.kv.CreateRevision < h.create && t.overlaps(h.Pods()) {
			return key
		}
	}
	return ""
}

func overlap(a, b []netip.Prefix) bool {
	return slices.ContainsFunc(a, func(r netip.Prefix) bool { return slices.ContainsFunc(b, r.Overlaps) })
}

// taken are the ranges of all leases but own, and of the claims that hold.
func (w *snapshot) taken(own *hold) []netip.Prefix {
	all := make([]netip.Prefix, 0, len(w.leases)+len(w.claimed))
	for _, t := range w.leases {
		if own == nil || string(t.kv.Key[len(w.subnets):]) != own.key {
			for _, p := range t.pods {
				if p.IsValid() {
					all = append(all, p)
				}
			}
		}
	}
	for _, kv := range w.claimed {
		of := string(kv.Value)
		if r := claimed(string(kv.Key)); r.IsValid() && w.has(of) && (own == nil || of != own.key) {
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
func (w *snapshot) claims(s *Store, h, old *hold) (when []clientv3.Cmp, then []clientv3.Op) {
	for _, r := range h.Pods() {
		key := s.claimKey(r)
		seen, _ := named(w.claimed, key)
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
		if seen, _ := named(w.claimed, key); seen != nil && string(seen.Value) == old.key && !slices.Contains(h.Pods(), r) {
			when = append(when, clientv3.Compare(clientv3.ModRevision(key), "=", seen.ModRevision))
			then = append(then, clientv3.OpDelete(key))
		}
	}
	return when, then
}

// claim writes the claims that a lease lacks: one that flanneld made, or whose etcd lease is another one now. It reports
// whether the lease was still as it had been seen.
func (s *Store) claim(ctx context.Context, w *snapshot, h *hold) (bool, error) {
	when := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(s.subnets()+h.key), "=", h.mod)}
	var then []clientv3.Op
	for _, r := range h.Pods() {
		key := s.claimKey(r)
		seen, _ := named(w.claimed, key)
		switch {
		case seen == nil:
			when = append(when, clientv3.Compare(clientv3.CreateRevision(key), "=", 0))
		case string(seen.Value) != h.key && w.has(string(seen.Value)):
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

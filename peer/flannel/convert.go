package flannel

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/peer"
)

// Published reports whether a node has said how it is reached. A lease between taking a range and that has an address at
// most: it is no peer yet.
func (a Attrs) Published() bool { return a.BackendType != "" }

// Addr is by what a node is told from others where leases bear no name: its address, of IPv4 if it has one.
func (a Attrs) Addr() netip.Addr {
	if a.PublicIP.IsValid() {
		return a.PublicIP
	}
	return a.PublicIPv6
}

// Peer is the node that a lease describes, under that name. Leases in etcd bear none: "" stands for [Attrs.Addr].
//
// A backend that is not known, and one whose data lack what its peers have to know (the MAC of a VXLAN device, the key of
// a WireGuard one), are an error with a [*peer.Problem]. It is not judged whether the peer makes sense among others; that
// is for [peer.Network.Sift].
func (l Lease) Peer(name string) (peer.Peer, error) {
	r, err := l.Attrs.Reach()
	if err != nil {
		return peer.Peer{}, err
	}
	if name == "" {
		name = l.Attrs.Addr().String()
	}
	return peer.Peer{Name: name, Pods: l.Pods(), Reach: r}, nil
}

// Reach is how a node says that it is reached.
func (a Attrs) Reach() (peer.Reach, error) {
	r := peer.Reach{Encap: known(a.BackendType)}
	if r.Encap == "" {
		if a.BackendType == "" {
			return peer.Reach{}, problem("BackendType", "", "is missing", "start the agent of that node, or delete its lease")
		}
		return peer.Reach{}, problem("BackendType", quote(a.BackendType), "is not one that is known here", "want one of %s", knownTypes)
	}
	for _, f := range inet.Families {
		e := endpoint(&r, f)
		e.Addr = a.addrOf(f)
		key, data := a.dataOf(f)
		if err := e.read(a.BackendType, key, data); err != nil {
			return peer.Reach{}, err
		}
		if a.BackendType == VXLAN && e.Addr.IsValid() && e.MAC == (inet.MAC{}) {
			return peer.Reach{}, problem(key+".VtepMAC", "", "is missing", "restart the agent of that node; it publishes the MAC of its device")
		}
		if !e.Addr.IsValid() && a.BackendType != WireGuard {
			*e = end{} // data without an endpoint say nothing
		}
	}
	if a.BackendType == WireGuard {
		if err := oneKey(&r); err != nil {
			return peer.Reach{}, err
		}
	}
	return r, nil
}

// oneKey gives an endpoint without a key that of the other family: flannel has one key for all devices of a node, and
// one device for both families if it is told so.
func oneKey(r *peer.Reach) error {
	four, six := r.V4.PublicKey, r.V6.PublicKey
	none := peer.PublicKey{}
	if four == none && six == none {
		return problem("BackendData.PublicKey", "", "is missing", "restart the agent of that node; it publishes the key of its device")
	}
	if four == none {
		four = six
	}
	if six == none {
		six = four
	}
	for _, e := range []*peer.Endpoint{&r.V4, &r.V6} {
		e.PublicKey = none
	}
	if r.V4.Addr.IsValid() {
		r.V4.PublicKey = four
	}
	if r.V6.Addr.IsValid() {
		r.V6.PublicKey = six
	}
	return nil
}

// end is an endpoint on its way from and to the data of a backend.
type end peer.Endpoint

func endpoint(r *peer.Reach, f inet.Family) *end {
	if f == inet.IPv4 {
		return (*end)(&r.V4)
	}
	return (*end)(&r.V6)
}

func (e *end) read(backend, key string, data Raw) error {
	if data == "" || backend == HostGW || backend == IPIP {
		return nil
	}
	var in struct {
		VNI, Port          json.RawMessage
		VtepMAC, PublicKey *string
	}
	if json.Unmarshal([]byte(data), &in) != nil {
		return problem(key, show([]byte(data)), "is not what the backend "+backend+" publishes", "restart the agent of that node")
	}
	var r reader
	e.VNI = uint32(r.number("VNI", in.VNI, peer.MaxVNI, 0))
	if backend != VXLAN && backend != WireGuard {
		e.Port = uint16(r.number("Port", in.Port, 1<<16-1, 0))
	}
	if len(r.wrong) > 0 {
		return problem(key, show([]byte(data)), "is wrong: "+r.wrong[0].Error(), "restart the agent of that node")
	}
	var err error
	if in.VtepMAC != nil && backend == VXLAN {
		if e.MAC, err = inet.ParseMAC(*in.VtepMAC); err != nil {
			return problem(key+".VtepMAC", quote(*in.VtepMAC), "is not the MAC of a device", "restart the agent of that node; it publishes the MAC of its device")
		}
	}
	if in.PublicKey != nil && backend == WireGuard {
		if e.PublicKey, err = peer.ParsePublicKey(*in.PublicKey); err != nil {
			return problem(key+".PublicKey", quote(*in.PublicKey), "is not a public key", "restart the agent of that node; it publishes the key of its device")
		}
	}
	return nil
}

// Encode is the lease of a peer: what flannel would write for such a node. Each family has one range at most.
func Encode(p peer.Peer) (Lease, error) {
	var l Lease
	for _, r := range p.Pods {
		at := &l.Subnet
		if inet.FamilyOf(r.Addr()) == inet.IPv6 {
			at = &l.IPv6Subnet
		}
		if at.IsValid() {
			return Lease{}, fmt.Errorf("node %q has the ranges %s and %s: a flannel lease has one for each family", p.Name, *at, r)
		}
		*at = r
	}
	var err error
	l.Attrs, err = EncodeReach(p.Reach)
	return l, err
}

// EncodeReach is how a node says that it is reached. A Reach without an encapsulation has only addresses: it makes
// attributes that are not published ([Attrs.Published]). VXLAN needs a MAC for each endpoint, WireGuard a key.
func EncodeReach(r peer.Reach) (Attrs, error) {
	a := Attrs{PublicIP: r.V4.Addr, PublicIPv6: r.V6.Addr, BackendType: r.Encap}
	if !a.Addr().IsValid() {
		return Attrs{}, fmt.Errorf("publish over encapsulation %q: no endpoint is stated: flannel leases need the node's address", r.Encap)
	}
	if r.Encap == "" {
		return a, nil
	}
	if known(r.Encap) == "" {
		return Attrs{}, fmt.Errorf("publish encapsulation %q: flannel leases have %s", r.Encap, knownTypes)
	}
	for _, f := range inet.Families {
		e := r.Endpoint(f)
		if !e.Addr.IsValid() {
			continue
		}
		data, err := encodeData(r.Encap, e)
		if err != nil {
			return Attrs{}, err
		}
		if f == inet.IPv4 {
			a.BackendData = data
		} else {
			a.BackendV6Data = data
		}
	}
	return a, nil
}

func encodeData(encap string, e peer.Endpoint) (Raw, error) {
	var v any
	switch encap {
	case VXLAN:
		if e.MAC == (inet.MAC{}) {
			return "", fmt.Errorf("publish encapsulation vxlan at %s: the MAC of the device is missing: make the device first", e.Addr)
		}
		v = struct {
			VNI     uint16 // that is all that flannel has room for, and it reads it back
			VtepMAC inet.MAC
		}{uint16(e.VNI), e.MAC}
	case WireGuard:
		if e.PublicKey == (peer.PublicKey{}) {
			return "", fmt.Errorf("publish encapsulation wireguard at %s: the public key is missing: make the device first", e.Addr)
		}
		v = struct{ PublicKey peer.PublicKey }{e.PublicKey}
	default:
		if e.VNI == 0 && e.Port == 0 || encap == HostGW || encap == IPIP {
			return "", nil
		}
		v = struct {
			VNI  uint32 `json:",omitempty"`
			Port uint16 `json:",omitempty"`
		}{e.VNI, e.Port}
	}
	b, err := json.Marshal(v)
	return Raw(b), err
}

package flannel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/cniblocks/cniblocks/inet"
	"github.com/cniblocks/cniblocks/peer"
)

// AnnotationPrefix begins the names of the annotations, if another is not configured.
const AnnotationPrefix = "flannel.alpha.coreos.com"

// Annotations are the names of the annotations by which a Kubernetes node publishes itself. It is comparable.
type Annotations struct {
	Managed                                 string // "true" on every node that takes part
	BackendType, BackendData, BackendV6Data string
	PublicIP, PublicIPv6                    string
	PublicIPOverwrite, PublicIPv6Overwrite  string // set by people; the node publishes them in place of its own
}

// NewAnnotations makes the names. The prefix is a domain, with or without a path of one part; "" is [AnnotationPrefix].
// Flannel's option for it is --kube-annotation-prefix.
func NewAnnotations(prefix string) (Annotations, error) {
	p := prefix
	if p == "" {
		p = AnnotationPrefix
	}
	if !strings.Contains(p, "/") {
		p += "/"
	}
	if !strings.HasSuffix(p, "/") && !strings.HasSuffix(p, "-") {
		p += "-"
	}
	if !validPrefix(p) {
		return Annotations{}, fmt.Errorf("annotation prefix %q: write a domain in lower case, such as %q, with a name after a slash if need be", prefix, AnnotationPrefix)
	}
	return Annotations{
		Managed:             p + "kube-subnet-manager",
		BackendType:         p + "backend-type",
		BackendData:         p + "backend-data",
		BackendV6Data:       p + "backend-v6-data",
		PublicIP:            p + "public-ip",
		PublicIPv6:          p + "public-ipv6",
		PublicIPOverwrite:   p + "public-ip-overwrite",
		PublicIPv6Overwrite: p + "public-ipv6-overwrite",
	}, nil
}

// validPrefix wants a domain of two parts or more, a slash, and nothing or a name that ends in "-".
func validPrefix(p string) bool {
	domain, name, ok := strings.Cut(p, "/")
	parts := strings.Split(domain, ".")
	if name != "" {
		short, dash := strings.CutSuffix(name, "-")
		ok = ok && dash
		parts = append(parts, short)
	}
	return ok && strings.Contains(domain, ".") && !slices.ContainsFunc(parts, func(s string) bool {
		return s == "" || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_-") != ""
	})
}

// IsManaged reports whether the node with these annotations takes part in the network.
func (n Annotations) IsManaged(annotations map[string]string) bool {
	return annotations[n.Managed] == "true"
}

// Overwrite are the addresses that the node with these annotations has to publish in place of its own; the zero Addr if
// none is ordered. The error holds a [*peer.Problem].
func (n Annotations) Overwrite(annotations map[string]string) (v4, v6 netip.Addr, err error) {
	if v4, err = annotated(annotations, n.PublicIPOverwrite, inet.IPv4); err == nil {
		v6, err = annotated(annotations, n.PublicIPv6Overwrite, inet.IPv6)
	}
	return v4, v6, err
}

// Lease is what a node publishes: its annotations and its spec.podCIDRs. A node without a backend type has not published
// yet. The error holds a [*peer.Problem].
func (n Annotations) Lease(annotations map[string]string, podCIDRs []string) (Lease, error) {
	var l Lease
	for _, s := range podCIDRs {
		r, err := netip.ParsePrefix(s)
		f := inet.FamilyOf(r.Addr())
		if err != nil || f == 0 {
			return Lease{}, problem("spec.podCIDRs", quote(s), "is not a range", "let the controller manager assign them (--allocate-node-cidrs)")
		}
		at := &l.Subnet
		if f == inet.IPv6 {
			at = &l.IPv6Subnet
		}
		if at.IsValid() {
			return Lease{}, problem("spec.podCIDRs", quote(s), "is the second range of "+f.String()+" beside "+at.String(), "a node has one for each family")
		}
		*at = r.Masked()
	}
	var err error
	if l.Attrs.PublicIP, err = annotated(annotations, n.PublicIP, inet.IPv4); err != nil {
		return Lease{}, err
	}
	if l.Attrs.PublicIPv6, err = annotated(annotations, n.PublicIPv6, inet.IPv6); err != nil {
		return Lease{}, err
	}
	l.Attrs.BackendType = annotations[n.BackendType]
	_ = l.Attrs.BackendData.UnmarshalJSON([]byte(annotations[n.BackendData])) // has no error
	_ = l.Attrs.BackendV6Data.UnmarshalJSON([]byte(annotations[n.BackendV6Data]))
	return l, nil
}

func annotated(annotations map[string]string, name string, f inet.Family) (netip.Addr, error) {
	if annotations[name] == "" {
		return netip.Addr{}, nil
	}
	return parseAddr("annotation "+name, annotations[name], f)
}

// Of are the annotations by which a node publishes these attributes, as flannel writes them: a backend without data has
// "null" there, and VXLAN leaves out what belongs to a family that it does not use.
func (n Annotations) Of(a Attrs) map[string]string {
	m := map[string]string{n.Managed: "true", n.BackendType: a.BackendType}
	if a.BackendType != VXLAN || a.BackendData != "" {
		m[n.BackendData], m[n.PublicIP] = annotation(a.BackendData), printed(a.PublicIP)
	}
	six := a.PublicIPv6.IsValid()
	if a.BackendType == VXLAN || a.BackendType == WireGuard {
		six = six && a.BackendV6Data != ""
	}
	if six && a.BackendType != IPIP {
		m[n.BackendV6Data], m[n.PublicIPv6] = annotation(a.BackendV6Data), a.PublicIPv6.String()
	}
	return m
}

func annotation(r Raw) string {
	if r == "" {
		return "null"
	}
	return string(r)
}

// Peer is the node of that name as it publishes itself. Beside what [Annotations.Lease] and [Lease.Peer] find wrong, a
// problem names the annotation that it is about.
func (n Annotations) Peer(name string, annotations map[string]string, podCIDRs []string) (peer.Peer, error) {
	l, err := n.Lease(annotations, podCIDRs)
	if err != nil {
		return peer.Peer{}, err
	}
	p, err := l.Peer(name)
	var w *peer.Problem
	if errors.As(err, &w) {
		w.Key = n.named(w.Key)
	}
	return p, err
}

func (n Annotations) named(key string) string {
	attr, rest, of := strings.Cut(key, ".")
	if of {
		rest = "." + rest
	}
	for _, k := range [...][2]string{{"BackendType", n.BackendType}, {"BackendData", n.BackendData}, {"BackendV6Data", n.BackendV6Data}} {
		if attr == k[0] {
			return "annotation " + k[1] + rest
		}
	}
	return key
}

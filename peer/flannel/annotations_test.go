package flannel_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/flannel"
)

const a = "flannel.alpha.coreos.com/"

func names(t *testing.T) flannel.Annotations {
	t.Helper()
	n, err := flannel.NewAnnotations("")
	require.NoError(t, err)
	return n
}

func TestAnnotationsAreReadAndWrittenByteForByte(t *testing.T) {
	t.Parallel()
	n := names(t)
	const key = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
	for what, c := range map[string]struct {
		cidrs       []string
		annotations map[string]string
	}{
		"vxlan": {[]string{"10.244.1.0/24"}, map[string]string{a + "backend-type": "vxlan", a + "kube-subnet-manager": "true",
			a + "backend-data": `{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}`, a + "public-ip": "192.0.2.1"}},
		"vxlan, dual stack": {[]string{"10.244.1.0/24", "fd00:10:244:1::/64"}, map[string]string{a + "backend-type": "vxlan", a + "kube-subnet-manager": "true",
			a + "backend-data": `{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}`, a + "public-ip": "192.0.2.1",
			a + "backend-v6-data": `{"VNI":1,"VtepMAC":"22:3e:c4:61:0b:02"}`, a + "public-ipv6": "2001:db8::1"}},
		"vxlan of IPv6 alone": {[]string{"fd00:10:244:1::/64"}, map[string]string{a + "backend-type": "vxlan", a + "kube-subnet-manager": "true",
			a + "backend-v6-data": `{"VNI":1,"VtepMAC":"22:3e:c4:61:0b:02"}`, a + "public-ipv6": "2001:db8::1"}},
		"host-gw": {[]string{"10.244.1.0/24"}, map[string]string{a + "backend-type": "host-gw", a + "kube-subnet-manager": "true",
			a + "backend-data": "null", a + "public-ip": "192.0.2.1"}},
		"host-gw, dual stack": {[]string{"10.244.1.0/24", "fd00:10:244:1::/64"}, map[string]string{a + "backend-type": "host-gw", a + "kube-subnet-manager": "true",
			a + "backend-data": "null", a + "public-ip": "192.0.2.1", a + "backend-v6-data": "null", a + "public-ipv6": "2001:db8::1"}},
		"host-gw of IPv6 alone": {[]string{"fd00:10:244:1::/64"}, map[string]string{a + "backend-type": "host-gw", a + "kube-subnet-manager": "true",
			a + "backend-data": "null", a + "public-ip": "0.0.0.0", a + "backend-v6-data": "null", a + "public-ipv6": "2001:db8::1"}},
		"ipip": {[]string{"10.244.1.0/24"}, map[string]string{a + "backend-type": "ipip", a + "kube-subnet-manager": "true",
			a + "backend-data": "null", a + "public-ip": "192.0.2.1"}},
		"wireguard, dual stack": {[]string{"10.244.1.0/24", "fd00:10:244:1::/64"}, map[string]string{a + "backend-type": "wireguard", a + "kube-subnet-manager": "true",
			a + "backend-data": `{"PublicKey":"` + key + `"}`, a + "public-ip": "192.0.2.1", a + "backend-v6-data": `{"PublicKey":"` + key + `"}`, a + "public-ipv6": "2001:db8::1"}},
	} {
		require.True(t, n.IsManaged(c.annotations), what)
		l, err := n.Lease(c.annotations, c.cidrs)
		require.NoError(t, err, what)
		require.Equal(t, c.annotations, n.Of(l.Attrs), what)

		p, err := n.Peer("node-1", c.annotations, c.cidrs)
		require.NoError(t, err, what)
		require.Equal(t, "node-1", p.Name)
		require.NoError(t, peer.Network{Peers: []peer.Peer{p}}.Validate(), what)
		again, err := flannel.Encode(p)
		require.NoError(t, err, what)
		require.Equal(t, l, again, what)
	}
}

func TestAnnotationsOfAnotherPrefix(t *testing.T) {
	t.Parallel()
	for prefix, want := range map[string]string{
		"": "flannel.alpha.coreos.com/backend-type", "flannel.alpha.coreos.com": "flannel.alpha.coreos.com/backend-type", "flannel.alpha.coreos.com/": "flannel.alpha.coreos.com/backend-type",
		"flannel.alpha.coreos.com/prefix": "flannel.alpha.coreos.com/prefix-backend-type", "flannel.alpha.coreos.com/prefix-": "flannel.alpha.coreos.com/prefix-backend-type",
		"org.com": "org.com/backend-type", "org9.com": "org9.com/backend-type", "org.com/9": "org.com/9-backend-type",
	} {
		n, err := flannel.NewAnnotations(prefix)
		require.NoError(t, err, prefix)
		require.Equal(t, want, n.BackendType)
	}
	for _, prefix := range []string{"org", "org/", "org/prefix", "org.COM", "org.com/PREFIX", "org.com/a/b", "../org.com"} {
		_, err := flannel.NewAnnotations(prefix)
		require.EqualError(t, err, `annotation prefix "`+prefix+`": write a domain in lower case, such as "flannel.alpha.coreos.com", with a name after a slash if need be`)
	}
}

func TestOneBadAnnotationIsAProblemThatNamesIt(t *testing.T) {
	t.Parallel()
	n := names(t)
	for want, c := range map[string]struct {
		name, value string
		cidrs       []string
	}{
		`annotation ` + a + `public-ip "x" is not an address of ipv4: write the address at which the other nodes reach this one`:                      {a + "public-ip", "x", nil},
		`annotation ` + a + `public-ipv6 "192.0.2.1" is not an address of ipv6: write the address at which the other nodes reach this one`:            {a + "public-ipv6", "192.0.2.1", nil},
		`annotation ` + a + `backend-type "extension" is not one that is known here: want one of vxlan, host-gw, ipip, wireguard, gre, geneve`:        {a + "backend-type", "extension", nil},
		`annotation ` + a + `backend-data { is not what the backend vxlan publishes: restart the agent of that node`:                                  {a + "backend-data", "{", nil},
		`annotation ` + a + `backend-data.VtepMAC "y" is not the MAC of a device: restart the agent of that node; it publishes the MAC of its device`: {a + "backend-data", `{"VtepMAC":"y"}`, nil},
		`annotation ` + a + `backend-v6-data { is not what the backend vxlan publishes: restart the agent of that node`:                               {a + "backend-v6-data", "{", nil},
		`spec.podCIDRs "10.0.0.0" is not a range: let the controller manager assign them (--allocate-node-cidrs)`:                                     {a + "x", "", []string{"10.0.0.0"}},
		`spec.podCIDRs "10.0.1.0/24" is the second range of ipv4 beside 10.0.0.0/24: a node has one for each family`:                                  {a + "x", "", []string{"10.0.0.0/24", "10.0.1.0/24"}},
	} {
		annotations := map[string]string{a + "backend-type": "vxlan", a + "backend-data": `{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}`, a + "public-ip": "192.0.2.1", a + "future": "?"}
		annotations[c.name] = c.value
		_, err := n.Peer("node-1", annotations, c.cidrs)
		var p *peer.Problem
		require.ErrorAs(t, err, &p)
		require.EqualError(t, err, want)
	}
}

func TestAddressesThatPeopleOrder(t *testing.T) {
	t.Parallel()
	n := names(t)
	v4, v6, err := n.Overwrite(map[string]string{a + "public-ip-overwrite": "192.0.2.9", a + "public-ipv6-overwrite": "2001:db8::9"})
	require.NoError(t, err)
	require.Equal(t, ip("192.0.2.9"), v4)
	require.Equal(t, ip("2001:db8::9"), v6)
	v4, v6, err = n.Overwrite(nil)
	require.NoError(t, err)
	require.False(t, v4.IsValid() || v6.IsValid())
	_, _, err = n.Overwrite(map[string]string{a + "public-ipv6-overwrite": "node-1"})
	require.EqualError(t, err, `annotation `+a+`public-ipv6-overwrite "node-1" is not an address of ipv6: write the address at which the other nodes reach this one`)
}

func TestANodeThatTakesNoPart(t *testing.T) {
	t.Parallel()
	n := names(t)
	require.False(t, n.IsManaged(nil))
	require.False(t, n.IsManaged(map[string]string{a + "kube-subnet-manager": "false"}))
	l, err := n.Lease(nil, []string{"10.244.1.0/24"})
	require.NoError(t, err)
	require.False(t, l.Attrs.Published())
}

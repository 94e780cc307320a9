//go:build linux

package etcd_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/etcdtest"
	"github.com/cniblocks/cniblocks/peer"
	"github.com/cniblocks/cniblocks/peer/etcd"
)

// authority makes certificates in a directory.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	a.key = key
	a.cert = &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.write("ca", a.cert, &key.PublicKey)
	return a
}

func (a *authority) write(name string, c *x509.Certificate, pub *ecdsa.PublicKey) {
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, pub, a.key)
	require.NoError(a.t, err)
	require.NoError(a.t, os.WriteFile(a.path(name+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

// issue makes a certificate for a server on loopback, or a client of that name.
func (a *authority) issue(name string) (cert, key string) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(a.t, err)
	a.write(name, &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}, &k.PublicKey)
	der, err := x509.MarshalECPrivateKey(k)
	require.NoError(a.t, err)
	require.NoError(a.t, os.WriteFile(a.path(name+".key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600))
	der, err = x509.MarshalPKIXPublicKey(&k.PublicKey)
	require.NoError(a.t, err)
	require.NoError(a.t, os.WriteFile(a.path(name+".pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600))
	return a.path(name + ".crt"), a.path(name + ".key")
}

func TestTLSAndAPassword(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	serverCert, serverKey := ca.issue("server")
	cert, key := ca.issue("node")
	const url = "https://127.0.0.1:2479"
	s := etcdtest.New(t, "--listen-client-urls", etcdtest.URL+","+url, "--advertise-client-urls", etcdtest.URL,
		"--cert-file", serverCert, "--key-file", serverKey, "--trusted-ca-file", ca.path("ca.crt"), "--client-cert-auth")
	w := newWorld(t, s, small)
	const password = nodePassword
	w.secure()
	config, err := etcd.TLS(ca.path("ca.crt"), cert, key)
	require.NoError(t, err)
	secure := func(o *etcd.Options) { o.Endpoints, o.TLS = []string{url}, config }
	login := func(user, password string) func(*etcd.Options) {
		return func(o *etcd.Options) { o.Username, o.Password = user, password }
	}

	node := w.node(secure, login("node", password), withState(w.stateFile()))
	p, err := node.Acquire(within(t, patience), want("a", "192.0.2.1"))
	require.NoError(t, err)
	require.NoError(t, node.Publish(within(t, patience), vxlan(p, 1)))
	all := observe(t, node)
	require.Equal(t, "a", addresses(next(t, all).list))
	s.Cut(true)
	require.Error(t, next(t, all).err)
	s.Cut(false)
	require.NoError(t, next(t, all).err)
	s.Stop(t)
	require.Error(t, next(t, all).err)
	s.Start(t) // which knows no token any more
	require.NoError(t, next(t, all).err)
	require.NoError(t, node.Publish(within(t, patience), vxlan(p, 2)))
	require.EqualValues(t, 2, next(t, all).list[0].V4.MAC[5])
	b, err := os.ReadFile(cert)
	require.NoError(t, err)

	_, err = w.node(secure).Config(within(t, patience))
	require.NoError(t, err, "etcd takes the name in the certificate for that of the user")

	stranger := newAuthority(t)
	strangerCert, strangerKey := stranger.issue("node")
	unknown, err := etcd.TLS(ca.path("ca.crt"), strangerCert, strangerKey)
	require.NoError(t, err)
	distrust, err := etcd.TLS(stranger.path("ca.crt"), cert, key)
	require.NoError(t, err)
	for what, c := range map[string]struct {
		options []func(*etcd.Options)
		want    string
	}{
		"wrong password":     {[]func(*etcd.Options){secure, login("node", "wrong-staple")}, "authentication failed, invalid user ID or password"},
		"another prefix":     {[]func(*etcd.Options){secure, login("node", password), func(o *etcd.Options) { o.Prefix = "/other" }}, "permission denied"},
		"unknown to it":      {[]func(*etcd.Options){secure, login("node", password), func(o *etcd.Options) { o.TLS = unknown }}, "etcd https://127.0.0.1:2479: "},
		"unknown to us":      {[]func(*etcd.Options){secure, login("node", password), func(o *etcd.Options) { o.TLS = distrust }}, "certificate"},
		"system's authority": {[]func(*etcd.Options){secure, login("node", password), func(o *etcd.Options) { o.TLS = nil }}, "certificate"},
	} {
		ctx := within(t, 5*time.Second)
		s := w.node(c.options...)
		_, err := s.Acquire(ctx, want("b", "192.0.2.2"))
		require.ErrorContains(t, err, c.want, what)
		hide(t, err, password, "wrong-staple", string(b))
		for _, err := range s.Watch(within(t, patience)) {
			require.ErrorContains(t, err, c.want, what)
			hide(t, err, password, "wrong-staple", string(b))
			break
		}
		t.Logf("%s: %v", what, err)
	}
	require.NotContains(t, fmt.Sprintf("%+v", node.Status()), password)

	ca.issue("node") // renewed in place
	s.Cut(true)
	require.Error(t, next(t, all).err)
	s.Cut(false)
	require.NoError(t, next(t, all).err)
}

func hide(t *testing.T, err error, secrets ...string) {
	t.Helper()
	for _, s := range secrets {
		require.NotContains(t, fmt.Sprintf("%v %+v %#v", err, err, err), s)
	}
}

func TestOptionsThatCannotBeAreRefusedWithoutTheirSecrets(t *testing.T) {
	t.Parallel()
	for want, o := range map[string]etcd.Options{
		"etcd: no endpoint is stated: state URLs such as https://192.0.2.1:2379":                           {},
		"etcd endpoint 1 has a user name in it: state it and the password apart from the URL":              {Endpoints: []string{"http://user:hunter2@127.0.0.1:2379"}},
		"etcd endpoint 2 is not a URL: write one such as https://192.0.2.1:2379":                           {Endpoints: []string{"http://127.0.0.1:2379", "http://user:hunter2%zz@x"}},
		`etcd endpoint "127.0.0.1": write a URL such as https://192.0.2.1:2379`:                            {Endpoints: []string{"127.0.0.1"}},
		`etcd endpoint "http://127.0.0.1:2379/v2": write a URL such as https://192.0.2.1:2379`:             {Endpoints: []string{"http://127.0.0.1:2379/v2"}},
		"etcd endpoint https://127.0.0.1:2379: others are http: state all of one scheme":                   {Endpoints: []string{"http://127.0.0.1:2379", "https://127.0.0.1:2379"}},
		"etcd user name or password is missing: state both or neither":                                     {Endpoints: []string{"http://127.0.0.1:2379"}, Password: "hunter2"},
		`etcd prefix "/": state one of the network's own, such as "/coreos.com/network"`:                   {Endpoints: []string{"http://127.0.0.1:2379"}, Prefix: "/"},
		`etcd prefix "/cniblocks": state one of the network's own, such as "/coreos.com/network"`:          {Endpoints: []string{"http://127.0.0.1:2379"}, Prefix: "cniblocks/"},
		`etcd prefix "/cniblocks/claims/x": state one of the network's own, such as "/coreos.com/network"`: {Endpoints: []string{"http://127.0.0.1:2379"}, Prefix: "cniblocks/claims/x"},
		"etcd lease TTL 1.5s: want whole seconds":                                                          {Endpoints: []string{"http://127.0.0.1:2379"}, TTL: 1500 * time.Millisecond},
	} {
		_, err := etcd.New(o)
		require.EqualError(t, err, want)
	}
	config, err := etcd.TLS("", "", "")
	require.NoError(t, err)
	_, err = etcd.New(etcd.Options{Endpoints: []string{"http://127.0.0.1:2379"}, TLS: config})
	require.EqualError(t, err, "etcd endpoint http://127.0.0.1:2379 with certificates: write https, or leave the certificates out")
	_, err = etcd.TLS("", "/a", "")
	require.EqualError(t, err, `etcd certificate file "/a" with key file "": state both or neither`)
	_, err = etcd.TLS("/dev/null", "", "")
	require.EqualError(t, err, `etcd CA file /dev/null holds no certificate: want PEM`)
	_, err = etcd.TLS("", "/dev/null", "/dev/null")
	require.ErrorContains(t, err, `etcd certificate file /dev/null with key file /dev/null: tls: `)
	_, err = etcd.TLS("/nowhere", "", "")
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestAStoreThatWasClosedSaysSo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	s := w.node()
	p, err := s.Acquire(within(t, patience), want("a", "192.0.2.1"))
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	require.ErrorContains(t, s.Publish(within(t, patience), vxlan(p, 1)), "the store was closed")
	_, err = s.Config(within(t, patience))
	require.ErrorContains(t, err, "the store was closed")
	require.Equal(t, []string{s.Status().Key}, w.keys(), "the ranges stay taken")
	var _ peer.Registrar = s
}

func TestOneEndpointOfSeveralIsEnough(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	w.three()
	s := w.node(func(o *etcd.Options) {
		o.Endpoints = []string{"http://127.0.0.2:9", etcdtest.URL, "http://127.0.0.3:9"}
	})
	all := observe(t, s)
	require.Equal(t, allThree, addresses(next(t, all).list))
	_, err := s.Acquire(within(t, patience), want("a", "192.0.2.1"))
	require.NoError(t, err)
}

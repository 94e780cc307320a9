package etcd

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/cniblocks/cniblocks/peer/flannel"
)

// Options say where a network is kept and how it is reached.
type Options struct {
	// Endpoints are URLs of members of one cluster, such as https://192.0.2.1:2379, all of http or all of https. Any of
	// them that answers will do.
	Endpoints []string

	Prefix string // of the network's keys; "" is [flannel.Prefix]

	TLS      *tls.Config // for https; nil trusts the certificates that the system trusts. See [TLS]
	Username string      // etcd's own authentication; "" is none
	Password string

	// TTL is for how long a lease outlives its node. 0 is 24 h, as flannel has it; etcd makes less than about 2 s longer.
	TTL time.Duration

	// StateFile is where the node remembers its etcd lease over restarts and reboots, so that a process which is killed
	// between two steps leaves no lease behind that nobody uses. "" remembers nothing. It holds no secrets.
	StateFile string

	// Timeout is what one call may take before the store counts as unreachable; 0 is 5 s.
	Timeout time.Duration

	// Dial connects to a member, given as host:port; nil is a [net.Dialer].
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}

const (
	defaultTTL     = 24 * time.Hour
	defaultTimeout = 5 * time.Second
	claimsPrefix   = "/cniblocks/claims"
)

// TLS is a configuration from files in PEM: ca holds the certificates to trust, "" those of the system; cert and key are
// this client's own, both "" if it has none. The latter two are read again at every connection, so that they may be
// renewed.
func TLS(ca, cert, key string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("etcd CA file: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("etcd CA file %s holds no certificate: want PEM", ca)
		}
	}
	if (cert == "") != (key == "") {
		return nil, fmt.Errorf("etcd certificate file %q with key file %q: state both or neither", cert, key)
	}
	if cert != "" {
		if _, err := tls.LoadX509KeyPair(cert, key); err != nil {
			return nil, fmt.Errorf("etcd certificate file %s with key file %s: %w", cert, key, err)
		}
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(cert, key)
			return &pair, err
		}
	}
	return c, nil
}

// complete checks the options and fills in what is not stated.
func (o *Options) complete() error {
	if len(o.Endpoints) == 0 {
		return errors.New("etcd: no endpoint is stated: state URLs such as https://192.0.2.1:2379")
	}
	scheme := ""
	for i, e := range o.Endpoints {
		u, err := endpoint(i, e)
		if err != nil {
			return err
		}
		if scheme != "" && u.Scheme != scheme {
			return fmt.Errorf("etcd endpoint %s: others are %s: state all of one scheme", u, scheme)
		}
		scheme = u.Scheme
	}
	switch {
	case scheme == "https" && o.TLS == nil:
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	case scheme == "http" && o.TLS != nil:
		return fmt.Errorf("etcd endpoint %s with certificates: write https, or leave the certificates out", o.Endpoints[0])
	}
	if (o.Username == "") != (o.Password == "") {
		return errors.New("etcd user name or password is missing: state both or neither")
	}
	o.Prefix = "/" + strings.Trim(cmp.Or(o.Prefix, flannel.Prefix), "/")
	if o.Prefix == "/" || strings.HasPrefix(claimsPrefix+"/", o.Prefix+"/") || strings.HasPrefix(o.Prefix+"/", claimsPrefix+"/") {
		return fmt.Errorf("etcd prefix %q: state one of the network's own, such as %q", o.Prefix, flannel.Prefix)
	}
	if o.TTL < 0 || o.TTL%time.Second != 0 {
		return fmt.Errorf("etcd lease TTL %s: want whole seconds", o.TTL)
	}
	o.TTL = cmp.Or(o.TTL, defaultTTL)
	o.Timeout = cmp.Or(o.Timeout, defaultTimeout)
	return nil
}

// endpoint judges one URL. Errors do not repeat what may be a password.
func endpoint(i int, s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, fmt.Errorf("etcd endpoint %d is not a URL: write one such as https://192.0.2.1:2379", i+1)
	case u.User != nil:
		return nil, fmt.Errorf("etcd endpoint %d has a user name in it: state it and the password apart from the URL", i+1)
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("etcd endpoint %q: write a URL such as https://192.0.2.1:2379", u.Redacted())
	}
	return u, nil
}

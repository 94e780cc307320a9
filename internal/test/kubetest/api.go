//go:build linux

package kubetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/cniblocks/cniblocks/netns"
)

// Options are for [Start].
type Options struct {
	NS   *netns.NS  // where it runs; nil is a namespace of its own
	Addr netip.Addr // that it is reached at; the zero Addr is 127.0.0.1
	Args []string   // more arguments of kube-apiserver
}

// The ranges of a [API]'s services; the API server itself is the first address.
const (
	Services = "10.96.0.0/16"
	Service  = "10.96.0.1"
)

const port = "6443"

// API is a kube-apiserver and its etcd.
type API struct {
	NS  *netns.NS
	Dir string // with its files
	Bin string // with the programs

	addr   netip.Addr
	owned  bool
	token  string
	args   []string
	http   *http.Client
	etcd   *process
	server *process
	others []*process
}

// Start starts etcd and an API server, and waits until it is ready. [API.Close] is to be called at the end.
func Start(o Options) (a *API, err error) {
	bin, err := Binaries(APIServer, Kubectl)
	if err != nil {
		return nil, err
	}
	a = &API{NS: o.NS, Bin: bin, addr: o.Addr, args: o.Args}
	defer func() {
		if err != nil {
			a.Close()
		}
	}()
	if a.Dir, err = os.MkdirTemp("", "cniblocks-kube-"); err != nil {
		return a, err
	}
	if !a.addr.IsValid() {
		a.addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if a.NS == nil {
		a.owned = true
		if a.NS, err = netns.New(); err != nil {
			return a, err
		}
		if err = a.NS.Do(func() error { return exec.Command("ip", "link", "set", "lo", "up").Run() }); err != nil {
			return a, fmt.Errorf("ip link set lo up: %w", err)
		}
	}
	a.http = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DialContext:     a.Dial,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // the server's certificate is its own
	}}
	if err = a.secrets(); err != nil {
		return a, err
	}
	a.etcd, err = start(a.NS, a.path("etcd.log"), "etcd", "--data-dir", a.path("etcd"), "--unsafe-no-fsync",
		"--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379",
		"--listen-peer-urls", "http://127.0.0.1:2380", "--initial-advertise-peer-urls", "http://127.0.0.1:2380",
		"--initial-cluster", "default=http://127.0.0.1:2380")
	if err != nil {
		return a, err
	}
	if err = a.StartServer(); err != nil {
		return a, err
	}
	return a, a.WaitReady()
}

// Close stops all of it.
func (a *API) Close() {
	for _, p := range a.others {
		p.stop()
	}
	a.StopServer()
	a.etcd.stop()
	if a.http != nil {
		a.http.CloseIdleConnections()
	}
	if a.owned && a.NS != nil {
		a.NS.Close()
	}
	if a.Dir != "" {
		os.RemoveAll(a.Dir)
	}
}

// StopServer stops the API server; etcd goes on.
func (a *API) StopServer() {
	a.server.stop()
	a.server = nil
}

// StartServer starts the API server and returns at once.
func (a *API) StartServer() (err error) {
	a.server, err = start(a.NS, a.path("apiserver.log"), append([]string{
		filepath.Join(a.Bin, APIServer),
		"--etcd-servers=http://127.0.0.1:2379", "--bind-address=0.0.0.0", "--secure-port=" + port,
		"--advertise-address=" + a.advertised(), "--cert-dir=" + a.path("certs"), "--service-cluster-ip-range=" + Services,
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + a.KeyFile(),
		"--service-account-signing-key-file=" + a.KeyFile(), "--token-auth-file=" + a.path("tokens.csv"),
		"--authorization-mode=Node,RBAC", "--allow-privileged", "--kubelet-preferred-address-types=InternalIP",
		"--enable-priority-and-fairness=false", "--profiling=false", "--shutdown-delay-duration=0s", "--shutdown-send-retry-after=false",
	}, a.args...)...)
	return err
}

// advertised must not be a loopback address, which the API server refuses to make endpoints of.
func (a *API) advertised() string {
	if a.addr.IsLoopback() {
		return "192.0.2.1"
	}
	return a.addr.String()
}

// WaitReady waits until the API server says that it is ready, and serves the rights of everybody.
func (a *API) WaitReady() error {
	var last error
	for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		for _, p := range []*process{a.etcd, a.server} {
			if p.ended() {
				return fmt.Errorf("%s ended: %s", p.name, p.tail())
			}
		}
		if last = a.ask("/readyz"); last == nil {
			return nil
		}
	}
	return fmt.Errorf("kube-apiserver is not ready: %w\n%s", last, a.server.tail())
}

func (a *API) ask(path string) error { return a.Do(http.MethodGet, path, nil) }

// Do sends a request with a JSON body as an administrator. An answer that is no success is an error.
func (a *API) Do(method, path string, body []byte) error {
	return a.send(method, path, "application/json", body)
}

// Merge merges a JSON document into an object (RFC 7386), as an administrator.
func (a *API) Merge(path string, body []byte) error {
	return a.send(http.MethodPatch, path, "application/merge-patch+json", body)
}

func (a *API) send(method, path, kind string, body []byte) error {
	req, err := http.NewRequest(method, a.URL()+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	req.Header.Set("Content-Type", kind)
	resp, err := a.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	return err
}

// URL is where the API server is.
func (a *API) URL() string { return "https://" + net.JoinHostPort(a.addr.String(), port) }

// Dial connects from the API server's own namespace, whatever the context of the caller's thread.
func (a *API) Dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	ns := a.NS.Share() // a client that is closed may still be about to connect
	defer ns.Close()
	err = ns.Do(func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// KeyFile is the key that signs the tokens of service accounts, CertFile the certificate of the server with that of its
// authority.
func (a *API) KeyFile() string { return a.path("sa.key") }

// CertFile is the certificate of the server with that of its authority.
func (a *API) CertFile() string { return a.path("certs/apiserver.crt") }

// Kubeconfig writes a kubeconfig file for a token, an empty one being that of an administrator, and returns its path.
func (a *API) Kubeconfig(token string) (string, error) {
	name := "kubeconfig"
	if token == "" || token == a.token {
		if _, err := os.Stat(a.path(name)); err == nil { // others read it
			return a.path(name), nil
		}
		token = a.token
	} else {
		b := make([]byte, 4)
		_, _ = rand.Read(b)
		name += "-" + hex.EncodeToString(b)
	}
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: %q, insecure-skip-tls-verify: true}}]
users: [{name: test, user: {token: %q}}]
contexts: [{name: test, context: {cluster: test, user: test}}]
current-context: test
`, a.URL(), token)
	return a.path(name), os.WriteFile(a.path(name), []byte(text), 0o600)
}

// Kubectl runs kubectl as an administrator. An error holds what it printed.
func (a *API) Kubectl(stdin string, args ...string) (string, error) {
	config, err := a.Kubeconfig("")
	if err != nil {
		return "", err
	}
	cmd := exec.Command(filepath.Join(a.Bin, Kubectl), append([]string{"--kubeconfig", config, "--cache-dir", a.path("cache")}, args...)...)
	cmd.Stdin = bytes.NewReader([]byte(stdin))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := a.NS.Do(cmd.Run); err != nil {
		return out.String(), fmt.Errorf("kubectl %q: %w\n%s%s", args, err, &out, &errs)
	}
	return out.String(), nil
}

func (a *API) path(name string) string { return filepath.Join(a.Dir, name) }

// secrets makes the administrator's token and the key of the service accounts' tokens.
func (a *API) secrets() error {
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	a.token = hex.EncodeToString(b)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	_, err = a.Kubeconfig("")
	return errors.Join(err,
		os.WriteFile(a.KeyFile(), text, 0o600),
		os.WriteFile(a.path("tokens.csv"), []byte(a.token+",admin,admin,system:masters\n"), 0o600),
	)
}

//go:build linux

package main

import (
	"crypto/tls"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/cniblocks/cniblocks/agent"
	"github.com/cniblocks/cniblocks/peer/etcd"
)

// etcd connects the agent with a network in etcd.
func (s *settings) etcd(a *agent.Agent) (end func(), err error) {
	kind, members, ok := strings.Cut(s.source, "://")
	if !ok || members == "" {
		return nil, fmt.Errorf("--source is %q: want etcd://HOST:PORT, with ',' between several", s.source)
	}
	o := etcd.Options{Prefix: s.etcdPrefix, Username: s.etcdUser, Password: s.etcdPassword, StateFile: filepath.Join(s.dataDir, s.network, "etcd.json")}
	secure := kind == "etcds" || s.etcdCA != "" || s.etcdCert != "" || s.etcdKey != ""
	for at := range strings.SplitSeq(members, ",") {
		scheme := "http"
		if secure {
			scheme = "https"
		}
		u, err := url.Parse(scheme + "://" + strings.TrimRight(strings.TrimSpace(at), "/"))
		if err != nil || u.Host == "" || u.User != nil || u.Path != "" {
			// What was written there may be a password, and is not repeated.
			return nil, fmt.Errorf("--source: a member of etcd is not HOST:PORT; user name and password are options of their own: see --etcd-username")
		}
		if u.Port() == "" {
			u.Host += ":2379"
		}
		o.Endpoints = append(o.Endpoints, u.String())
	}
	if secure {
		var t *tls.Config
		if t, err = etcd.TLS(s.etcdCA, s.etcdCert, s.etcdKey); err != nil {
			return nil, err
		}
		o.TLS = t
	}
	store, err := etcd.New(o)
	if err != nil {
		return nil, err
	}
	a.Source, a.Registrar = store, store
	a.Expiry = func() time.Time { return store.Status().Expires }
	a.Calls = func() uint64 { return store.Status().Calls }
	a.SourceName = kind + "://" + members
	return func() { _ = store.Close() }, s.flannel(a, store.Config, store.WatchConfig)
}

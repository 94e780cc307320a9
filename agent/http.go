//go:build linux

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Handler answers for the agent: /healthz (it works), /readyz (this node is as it should be), /metrics (for Prometheus),
// /status (a [Status] in JSON). What is not well is 503, with the reasons as text.
func (a *Agent) Handler() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if !a.st.lives() {
			http.Error(w, "the agent's loop hangs", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	m.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		a.st.mu.Lock()
		ok, why := a.st.ready()
		a.st.mu.Unlock()
		if !ok {
			http.Error(w, strings.Join(why, "\n"), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	m.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_, _ = w.Write(a.metrics())
	})
	m.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(a.Status())
	})
	return m
}

// Listen opens what [Agent.Handler] is to be served on: "unix:" and a path, whose directory is made and where a socket
// that nobody serves any more is replaced; or a loopback address and port. Nothing else is taken, since whoever can connect
// can read.
func Listen(at string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(at, "unix:"); ok {
		return listenUnix(path)
	}
	to, err := netip.ParseAddrPort(at)
	if err != nil || !to.Addr().IsLoopback() {
		return nil, fmt.Errorf("listen on %q: want unix:PATH, or a loopback address and port such as 127.0.0.1:9747", at)
	}
	return net.Listen("tcp", at)
}

func listenUnix(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	at, done, err := short(path)
	if err != nil {
		return nil, err
	}
	defer done()
	if c, err := net.Dial("unix", at); err == nil {
		c.Close()
		return nil, fmt.Errorf("listen on %s: another process serves it", path)
	} else if errors.Is(err, unix.ECONNREFUSED) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: at, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	return unlinked{l, path}, os.Chmod(path, 0o600)
}

// unlinked is a listener whose socket goes with it, by its own path.
type unlinked struct {
	*net.UnixListener
	path string
}

func (l unlinked) Close() error {
	err := l.UnixListener.Close()
	if err == nil { // the first time
		_ = os.Remove(l.path)
	}
	return err
}

// Dial connects to the socket of an agent.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	at, done, err := short(path)
	if err != nil {
		return nil, err
	}
	defer done()
	var d net.Dialer
	return d.DialContext(ctx, "unix", at)
}

// short is a path of a socket, until done is called, that fits into an address (unix(7)), which that of a network with a long
// name does not.
func short(path string) (at string, done func(), err error) {
	const most = len(unix.RawSockaddrUnix{}.Path) - 1
	if len(path) <= most {
		return path, func() {}, nil
	}
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, &fs.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir, filepath.Base(path)), func() { unix.Close(dir) }, nil
}

// Serve serves [Agent.Handler] until ctx is done.
func (a *Agent) Serve(ctx context.Context, l net.Listener) error {
	s := &http.Server{Handler: a.Handler(), ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

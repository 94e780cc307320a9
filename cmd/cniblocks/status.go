//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/agent"
	"github.com/cniblocks/cniblocks/node"
)

const statusText = `Usage: cniblocks status [NETWORK] [OPTIONS]

Asks the agents on this node how they do: what the node is, whether its source of peers answers, how many peers and
routes there are, what went wrong last. Without NETWORK it asks all. The exit status is 0 if all of them are ready.

  sudo cniblocks status
  sudo cniblocks status pods -o json
`

// statusCommand asks the agents of this node.
func statusCommand(ctx context.Context, args []string, out, errs io.Writer) int {
	o := newOptions("status", statusText)
	dir := o.String("state-dir", node.DefaultStateDir, "`DIR` that holds the agents' sockets")
	format := o.String("o", "text", "the `FORM`: text, or json for programs")
	words, status, done := o.read(args, 1, out, errs)
	if done {
		return status
	}
	if *format != "text" && *format != "json" {
		fmt.Fprintf(errs, "cniblocks status: -o %s: want text or json\n", *format)
		return misuse
	}
	name := "*"
	if len(words) > 0 {
		name = words[0]
	}
	sockets, err := filepath.Glob(filepath.Join(*dir, name, "agent.sock"))
	if err == nil && len(sockets) == 0 {
		err = fmt.Errorf("no agent runs here: there is no %s; start 'cniblocks agent'", filepath.Join(*dir, name, "agent.sock"))
	}
	if err != nil {
		return complain(errs, "status", err)
	}
	result := 0
	for i, path := range sockets {
		s, err := ask(ctx, path)
		if err != nil {
			result = complain(errs, "status", err)
			continue
		}
		if !s.Ready {
			result = failed
		}
		if *format == "json" {
			b, _ := json.MarshalIndent(s, "", "  ")
			fmt.Fprintf(out, "%s\n", b)
			continue
		}
		if i > 0 {
			fmt.Fprintln(out)
		}
		tell(out, s)
	}
	return result
}

func ask(ctx context.Context, path string) (s agent.Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return agent.Dial(ctx, path)
	}}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/status", nil)
	if err != nil {
		return s, err
	}
	a, err := c.Do(r)
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return s, fmt.Errorf("the agent of network %q does not run any more; what it made stays in place", filepath.Base(filepath.Dir(path)))
	case errors.Is(err, os.ErrPermission):
		return s, &os.PathError{Op: "connect to", Path: path, Err: os.ErrPermission}
	case err != nil:
		return s, fmt.Errorf("ask the agent at %s: %w", path, err)
	}
	defer a.Body.Close()
	return s, json.NewDecoder(a.Body).Decode(&s)
}

// tell writes a status for people.
func tell(out io.Writer, s agent.Status) {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	line := func(key, format string, a ...any) { fmt.Fprintf(w, "%s\t%s\n", key, fmt.Sprintf(format, a...)) }
	state := "ready"
	if !s.Ready {
		state = "NOT READY"
	}
	line("network", "%s: %s", s.Network, state)
	for _, why := range s.Reasons {
		line("", "%s", oneLine(why))
	}
	line("node", "%s", s.Node)
	line("ranges", "%s", words(s.Ranges))
	if len(s.Former) > 0 {
		line("", "earlier, pods may still have addresses of: %s", words(s.Former))
	}
	line("endpoints", "%s", words(s.Endpoints))
	for _, t := range s.Tunnels {
		line("tunnel", "%s %s", t.Encap, strings.Join(t.Devices, ", "))
	}
	line("mtu", "%d", s.MTU)
	line("source", "%s", sourceLine(s.Source))
	for i, why := range s.Source.Why {
		if i == 10 {
			line("", "... and more, see -o json")
			break
		}
		line("", "%s", oneLine(why))
	}
	if s.Source.Expiry != nil {
		line("lease", "expires in %s unless it is renewed", time.Until(*s.Source.Expiry).Round(time.Second))
	}
	line("peers", "%d, left out: %d; routes: %d", s.Peers, len(s.Refused), s.Routes)
	for i, r := range s.Refused {
		if i == 10 {
			line("", "... and more, see -o json")
			break
		}
		line("", "%s", oneLine(r))
	}
	line("repairs", "%d after changes by others, %d after lost announcements, %d by the clock", s.Repairs.Event, s.Repairs.Lost, s.Repairs.Resync)
	if s.Repairs.LastAt != nil && s.Repairs.Event+s.Repairs.Lost > 0 {
		line("", "last %s ago: %s", time.Since(*s.Repairs.LastAt).Round(time.Second), s.Repairs.Last)
	}
	if s.Withdrawn.LastAt != nil {
		line("not ready", "%d times since it started; last %s ago: %s", s.Withdrawn.Times, time.Since(*s.Withdrawn.LastAt).Round(time.Second), oneLine(s.Withdrawn.Last))
	}
	if s.ErrorAt != nil {
		line("last error", "%s ago: %s", time.Since(*s.ErrorAt).Round(time.Second), oneLine(s.Error))
	}
	w.Flush()
}

func sourceLine(s agent.SourceStatus) string {
	text := s.Name
	switch {
	case s.FromDisk:
		text += fmt.Sprintf(": has not answered for %.0f s; the peers are those of the agent before", s.Lag)
	case !s.Up:
		text += fmt.Sprintf(": fails for %.0f s, the last list stays", s.Lag)
	default:
		text += fmt.Sprintf(": up, lists: %d", s.Lists)
	}
	if s.LeftOut > 0 {
		text += fmt.Sprintf("; entries left out: %d", s.LeftOut)
	}
	return text
}

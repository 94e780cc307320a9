//go:build linux

package main

import (
	"context"
	"net"
	"strconv"
	"strings"
	"time"
)

// notifier tells systemd that the agent is ready and that it lives (sd_notify(3)). Without systemd it does nothing.
type notifier struct {
	to    *net.UnixAddr
	every time.Duration // between two signs of life; 0: nobody waits for them
	ready bool
	said  string
	last  time.Time
}

func newNotifier(env func(string) string) *notifier {
	n := &notifier{}
	if path := env("NOTIFY_SOCKET"); path != "" {
		n.to = &net.UnixAddr{Name: path, Net: "unixgram"} // a leading '@' is an abstract name for both
	}
	if us, err := strconv.ParseInt(env("WATCHDOG_USEC"), 10, 64); err == nil && us > 0 {
		n.every = time.Duration(us) * time.Microsecond / 3
	}
	return n
}

// alive is called by the agent's loop.
func (n *notifier) alive(ready bool, what string) {
	if n.to == nil {
		return
	}
	text := ""
	if ready && !n.ready {
		n.ready = true
		text += "READY=1\n"
	}
	if what != n.said {
		n.said = what
		text += "STATUS=" + oneLine(what) + "\n"
	}
	if n.every > 0 && time.Since(n.last) >= n.every {
		n.last = time.Now()
		text += "WATCHDOG=1\n"
	}
	if text != "" {
		n.send(text)
	}
}

func (n *notifier) stopping() {
	if n.to != nil {
		n.send("STOPPING=1\n")
	}
}

func (n *notifier) send(text string) {
	c, err := net.DialUnix("unixgram", nil, n.to)
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = c.Write([]byte(text))
}

func oneLine(s string) string { return strings.ReplaceAll(s, "\n", " ") }

// retry calls f for some seconds, until it succeeds.
func retry(ctx context.Context, f func() error) error {
	end := time.Now().Add(5 * time.Second)
	for {
		err := f()
		if err == nil || time.Now().After(end) || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

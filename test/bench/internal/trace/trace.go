//go:build linux

// Package trace counts what a plugin asks of the kernel, in a run of its own under strace(1). Traced runs are several
// times slower than others: their time is good for nothing but finding long waits.
package trace

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/cniblocks/cniblocks/test/bench/internal/scratch"
)

// ErrNoStrace says that strace is not installed: nothing can be counted.
var ErrNoStrace = errors.New("strace is not installed: processes, system calls and netlink writes are not counted")

// Counts is what one call of a plugin took, its children and what it left in the background included.
type Counts struct {
	Processes     int `json:"processes"` // that run a program, the plugin itself included
	Syscalls      int `json:"syscalls"`  // of all threads, without nanosleep
	NetlinkWrites int `json:"netlink_writes"`
	// Calls are the system calls by name.
	Calls map[string]Call `json:"-"`
}

// Call sums up the calls of one name.
type Call struct {
	Count   int
	Seconds float64 // from entry to return, waiting included
}

// Available is [ErrNoStrace] where strace is missing.
func Available() error {
	if _, err := exec.LookPath("strace"); err != nil {
		return ErrNoStrace
	}
	return nil
}

// Run runs the call on the node under strace.
func Run(w *scratch.World, c scratch.Call) (out []byte, counts Counts, err error) {
	if err := Available(); err != nil {
		return nil, Counts{}, err
	}
	log, err := os.CreateTemp(w.Dir, "strace-")
	if err != nil {
		return nil, Counts{}, err
	}
	defer os.Remove(log.Name())
	defer log.Close()
	// -yy names the protocol of a socket, -T the time in a call; strace ends when all that it follows have ended.
	cmd := exec.Command("strace", "-f", "-q", "-yy", "-T", "-s", "0", "-o", log.Name(), c.Path())
	cmd.Env, cmd.Dir = c.Environ(), "/"
	cmd.Stdin = bytes.NewReader(c.Conf)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err = w.Node.Do(func() (err error) {
		out, err = cmd.Output()
		return err
	})
	if err != nil {
		return out, Counts{}, fmt.Errorf("strace %s %s: %w: %s %s", c.Path(), c.Verb, err, out, stderr.Bytes())
	}
	counts, err = Parse(log)
	return out, counts, err
}

var (
	entry    = regexp.MustCompile(`^\d+\s+([a-z_0-9]+)\((.*)`)
	resumed  = regexp.MustCompile(`^\d+\s+<\.\.\. ([a-z_0-9]+) resumed>`)
	duration = regexp.MustCompile(`<(\d+\.\d+)>$`)
	success  = regexp.MustCompile(`\) += 0 <[\d.]+>$`)
	// strace knows the protocol of sockets in its own namespace only; a datagram names the family of its address.
	toSocket = regexp.MustCompile(`^\d+<NETLINK:|\{sa_family=AF_NETLINK`)
)

// writes are the calls that send something through the descriptor that is their first argument.
var writes = []string{"sendto", "sendmsg", "sendmmsg", "write", "writev"}

// Parse reads the log of strace -f -yy -T.
func Parse(log io.Reader) (Counts, error) {
	var c Counts
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		c.Add(lines.Text())
	}
	return c, lines.Err()
}

// Add counts a line of the log.
func (c *Counts) Add(line string) {
	if c.Calls == nil {
		c.Calls = map[string]Call{}
	}
	if m := entry.FindStringSubmatch(line); m != nil {
		c.count(m[1], m[2])
		c.spend(m[1], line)
	} else if m := resumed.FindStringSubmatch(line); m != nil {
		c.spend(m[1], line)
	} // else a signal or an exit
}

// nap is what the monitor thread of every Go program does, in steps of 20 microseconds while it has nothing to do: the
// longer strace makes a run, the more there are.
const nap = "nanosleep"

func (c *Counts) count(name, args string) {
	if name != nap {
		c.Syscalls++
	}
	call := c.Calls[name]
	call.Count++
	c.Calls[name] = call
	if slices.Contains(writes, name) && toSocket.MatchString(args) {
		c.NetlinkWrites++
	}
}

// spend adds what the end of the line tells, which an unfinished call has not got yet: the outcome and the time.
func (c *Counts) spend(name, line string) {
	if name == "execve" && success.MatchString(line) {
		c.Processes++
	}
	if m := duration.FindStringSubmatch(line); m != nil {
		seconds, _ := strconv.ParseFloat(m[1], 64)
		call := c.Calls[name]
		call.Seconds += seconds
		c.Calls[name] = call
	}
}

// Profile lists the calls that took longest, waiting included, under a title.
func (c Counts) Profile(title string) string {
	names := slices.SortedFunc(maps.Keys(c.Calls), func(a, b string) int {
		return cmp.Compare(c.Calls[b].Seconds, c.Calls[a].Seconds)
	})
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s: %d processes, %d system calls, %d netlink writes; under strace:\n",
		title, c.Processes, c.Syscalls, c.NetlinkWrites)
	for _, name := range names[:min(len(names), 10)] {
		fmt.Fprintf(&b, "%10.3f ms %5d  %s\n", c.Calls[name].Seconds*1000, c.Calls[name].Count, name)
	}
	return b.String()
}

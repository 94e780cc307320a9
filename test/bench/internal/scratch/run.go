//go:build linux

package scratch

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// path is the PATH of plugins, as a runtime's would be.
const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Call is one invocation of a plugin.
type Call struct {
	Bin         string // directory of the plugin, also its CNI_PATH
	Type        string // name of the plugin
	Verb        string
	ContainerID string
	Netns       string // path
	IfName      string
	Conf        []byte
}

// Cost is what a call took.
type Cost struct {
	Wall    time.Duration // from before the start to the exit of the plugin
	CPU     time.Duration // of the plugin, its children, and what it left in the background
	Settled time.Duration // from before the start until nothing was left in the background

	start time.Time
}

// Environ is the environment of the plugin.
func (c Call) Environ() []string {
	return []string{
		path, "CNI_COMMAND=" + c.Verb, "CNI_CONTAINERID=" + c.ContainerID, "CNI_NETNS=" + c.Netns,
		"CNI_IFNAME=" + c.IfName, "CNI_PATH=" + c.Bin,
	}
}

// Path is the executable of the plugin.
func (c Call) Path() string { return filepath.Join(c.Bin, c.Type) }

// process is a call that is ready to start: its standard files are memory, so that nobody need serve a pipe meanwhile.
type process struct {
	call  Call
	files [3]*os.File
}

func prepare(c Call) (*process, error) {
	p := &process{call: c}
	for i, name := range []string{"stdin", "stdout", "stderr"} {
		fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
		if err != nil {
			p.close()
			return nil, fmt.Errorf("memfd: %w", err)
		}
		p.files[i] = os.NewFile(uintptr(fd), name)
	}
	if _, err := p.files[0].Write(c.Conf); err != nil {
		p.close()
		return nil, err
	}
	_, err := p.files[0].Seek(0, io.SeekStart)
	return p, err
}

func (p *process) close() {
	for _, f := range p.files {
		if f != nil {
			f.Close()
		}
	}
}

// run starts the plugin in the network namespace of the calling thread and waits for its exit.
func (p *process) run() (Cost, syscall.WaitStatus, error) {
	attr := &syscall.ProcAttr{
		Dir: "/", Env: p.call.Environ(),
		Files: []uintptr{p.files[0].Fd(), p.files[1].Fd(), p.files[2].Fd()},
	}
	argv := []string{p.call.Path()}
	var status syscall.WaitStatus
	var usage syscall.Rusage

	start := time.Now()
	pid, err := syscall.ForkExec(argv[0], argv, attr)
	if err != nil {
		return Cost{}, 0, fmt.Errorf("start %s: %w", argv[0], err)
	}
	for {
		if _, err = syscall.Wait4(pid, &status, 0, &usage); err != syscall.EINTR {
			break
		}
	}
	wall := time.Since(start)
	if err != nil {
		return Cost{}, 0, fmt.Errorf("wait for %s: %w", argv[0], err)
	}
	return Cost{Wall: wall, CPU: cpu(usage), Settled: wall, start: start}, status, nil
}

// output is what the plugin printed, or the error that it reports.
func (p *process) output(status syscall.WaitStatus) ([]byte, error) {
	out, err := contents(p.files[1])
	if err != nil || status == 0 {
		return out, err
	}
	var e struct {
		Code         int
		Msg, Details string
	}
	if json.Unmarshal(out, &e) == nil && e.Msg != "" {
		return out, fmt.Errorf("%s %s: code %d: %s %s", p.call.Type, p.call.Verb, e.Code, e.Msg, e.Details)
	}
	stderr, _ := contents(p.files[2])
	return out, fmt.Errorf("%s %s: wait status %#x: %s %s", p.call.Type, p.call.Verb, int(status), out, stderr)
}

func contents(f *os.File) ([]byte, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(f)
}

// Exec runs one plugin on the node. What it left in the background is for [Cost.Settle] to wait for.
func (w *World) Exec(c Call) (out []byte, cost Cost, err error) {
	p, err := prepare(c)
	if err != nil {
		return nil, Cost{}, err
	}
	defer p.close()
	err = w.Node.Do(func() error {
		var status syscall.WaitStatus
		if cost, status, err = p.run(); err != nil {
			return err
		}
		out, err = p.output(status)
		return err
	})
	return out, cost, err
}

// ExecAll runs plugins on the node, so many at a time. The cost is that of all together; the results are in the order of
// the calls.
func (w *World) ExecAll(calls []Call, parallel int) (outs [][]byte, cost Cost, err error) {
	b := batch{outs: make([][]byte, len(calls)), next: make(chan int, len(calls)), begin: make(chan struct{})}
	for i, c := range calls {
		p, err := prepare(c)
		if err != nil {
			return nil, Cost{}, err
		}
		defer p.close()
		b.procs = append(b.procs, p)
		b.next <- i
	}
	close(b.next)

	var ready, done sync.WaitGroup
	for range parallel {
		ready.Add(1)
		done.Go(func() {
			entered := sync.OnceFunc(ready.Done)
			err := w.Node.Do(func() error {
				entered()
				b.work()
				return nil
			})
			entered() // also where the namespace could not be entered
			b.fail(err)
		})
	}
	ready.Wait()
	b.cost.start = time.Now()
	close(b.begin)
	done.Wait()
	b.cost.Wall = time.Since(b.cost.start)
	b.cost.Settled = b.cost.Wall
	return b.outs, b.cost, b.err
}

// batch is the work that the threads of ExecAll share.
type batch struct {
	procs []*process
	next  chan int
	begin chan struct{}

	mu   sync.Mutex
	outs [][]byte
	cost Cost
	err  error // the first
}

func (b *batch) work() {
	<-b.begin
	for i := range b.next {
		used, status, err := b.procs[i].run()
		var out []byte
		if err == nil {
			out, err = b.procs[i].output(status)
		}
		b.mu.Lock()
		b.outs[i] = out
		b.cost.CPU += used.CPU
		b.mu.Unlock()
		b.fail(err)
	}
}

// fail keeps the first error.
func (b *batch) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
	}
}

// Settle waits for what the calls left in the background, and accounts for it.
func (c *Cost) Settle() {
	for {
		var usage syscall.Rusage
		switch _, err := syscall.Wait4(-1, nil, 0, &usage); err {
		case nil:
			c.CPU += cpu(usage)
			c.Settled = time.Since(c.start)
		case syscall.EINTR:
		default:
			return
		}
	}
}

func cpu(u syscall.Rusage) time.Duration {
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

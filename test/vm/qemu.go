//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// bootLimit is what a boot may take with KVM, which needs about a second, before it counts as not working.
const bootLimit = 20 * time.Second

// vfsGrace is how long a guest may live without its files, which it waits for ever for.
const vfsGrace = 10 * time.Second

// brokenAccelError says that an accelerator is there and does not run this kernel.
type brokenAccelError struct{ accel, why string }

func (e *brokenAccelError) Error() string { return e.accel + " does not work here: " + e.why }

// deadGuestError says that a guest ended without a word.
type deadGuestError struct {
	booting bool   // it had not begun with the program
	last    string // what it and QEMU said at last
}

func (e *deadGuestError) Error() string {
	return "the guest died; the end of its console and of what QEMU said:\n" + e.last
}

// boots is how often a guest is started that dies before it has begun with the program.
const boots = 3

// persist calls boot again where its guest died before it had begun with the program: nothing has come of it yet.
func persist(boot func() error) error {
	for n := 1; ; n++ {
		err := boot()
		var dead *deadGuestError
		if !errors.As(err, &dead) || !dead.booting || n == boots {
			return err
		}
		fmt.Fprintln(os.Stderr, "vm: once more:", err)
	}
}

// accelerators to try, the fastest first.
func accelerators(asked string) []string {
	if asked != "" {
		return []string{asked}
	}
	if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err == nil {
		f.Close()
		if _, err := os.Stat(brokenMark("kvm")); err != nil {
			return []string{"kvm", "tcg"}
		}
	}
	return []string{"tcg"}
}

// brokenMark is a file that is there when the accelerator failed since this machine booted.
func brokenMark(accel string) string {
	dir, _ := cacheDir()
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return filepath.Join(dir, "broken-"+accel+"-"+strings.TrimSpace(string(id)))
}

func rememberBroken(accel string) { _ = os.WriteFile(brokenMark(accel), nil, 0o644) }

type machine struct {
	config
	kernel kernel
	initrd string
	plan   plan
	accel  string

	dir      string        // shared with the guest
	vfsEnd   chan struct{} // closed when virtiofsd has ended
	qemuSays safeBuffer
	vfsSays  safeBuffer
}

// run boots, waits for the program and returns its exit code and how long the boot took.
func (m *machine) run(ctx context.Context) (code int, boot time.Duration, err error) {
	if m.dir, err = os.MkdirTemp("", "cniblocks-vm-"); err != nil {
		return 0, 0, err
	}
	defer os.RemoveAll(m.dir)
	m.plan.Write = append(m.plan.Write, m.dir)
	b, err := json.Marshal(m.plan)
	if err != nil {
		return 0, 0, err
	}
	if err := os.WriteFile(filepath.Join(m.dir, "plan"), b, 0o600); err != nil {
		return 0, 0, err
	}
	stop, err := m.shareRoot(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer stop()
	start := time.Now()
	up, err := m.boot(ctx)
	if m.verbose {
		console, _ := os.ReadFile(m.at("console"))
		_, _ = os.Stderr.Write(console)
	}
	if err != nil {
		return 0, 0, err
	}
	if rc, err := os.ReadFile(m.at("exit")); err == nil {
		code, err := strconv.Atoi(strings.TrimSpace(string(rc)))
		return code, up.Sub(start), err
	}
	return 0, 0, &deadGuestError{booting: up.IsZero(), last: tail(m.at("console")) + "\n" + m.qemuSays.String() + m.vfsSays.String()}
}

func (m *machine) at(name string) string { return filepath.Join(m.dir, name) }

// boot runs QEMU to its end. up is when the guest was about to start the program.
func (m *machine) boot(ctx context.Context) (up time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, m.limit)
	defer cancel()
	outR, outW, err := os.Pipe()
	if err != nil {
		return up, err
	}
	defer outR.Close()
	errR, errW, err := os.Pipe()
	if err != nil {
		outW.Close()
		return up, err
	}
	defer errR.Close()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", m.args()...)
	cmd.Stdout, cmd.Stderr = &m.qemuSays, &m.qemuSays
	cmd.ExtraFiles = []*os.File{outW, errW}
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true} // a Ctrl-C is ours to handle
	err = cmd.Start()
	outW.Close()
	errW.Close()
	if err != nil {
		return up, fmt.Errorf("%w; install qemu-system-x86", err)
	}
	// An emulated processor works at a tenth of the speed, and what runs on it has the deadlines of others. Who may not do that
	// does without.
	_ = unix.Setpriority(unix.PRIO_PGRP, cmd.Process.Pid, -4)
	var copies sync.WaitGroup
	copies.Go(func() { _, _ = io.Copy(os.Stdout, outR) })
	copies.Go(func() { _, _ = io.Copy(os.Stderr, errR) })
	done := make(chan error, 1)
	go func() { copies.Wait(); done <- cmd.Wait() }()
	return m.watch(ctx, cancel, done)
}

func (m *machine) watch(ctx context.Context, cancel func(), done <-chan error) (up time.Time, err error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	started := time.Now()
	broken := ""
	vfsEnd, gone, alone := m.vfsEnd, time.Time{}, false
	for {
		select {
		case <-vfsEnd: // as it does with the guest
			vfsEnd, gone = nil, time.Now()
		case err := <-done:
			if st, e := os.Stat(m.at("up")); e == nil {
				up = st.ModTime()
			} else if m.accel != "tcg" && broken == "" && ctx.Err() == nil {
				broken = strings.TrimSpace(m.qemuSays.String())
			}
			switch {
			case broken != "":
				return up, &brokenAccelError{m.accel, broken}
			case alone:
				return up, fmt.Errorf("virtiofsd ended before the guest did:\n%s", m.vfsSays.String())
			case errors.Is(ctx.Err(), context.DeadlineExceeded):
				fmt.Fprintf(os.Stderr, "vm: killed after %s\n%s\n", m.limit, tail(m.at("console")))
				return up, os.WriteFile(m.at("exit"), []byte(strconv.Itoa(exitTimeout)), 0o600)
			case ctx.Err() != nil:
				return up, ctx.Err()
			case err != nil:
				return up, fmt.Errorf("qemu-system-x86_64: %w\n%s", err, m.qemuSays.String())
			}
			return up, nil
		case <-tick.C:
			if !gone.IsZero() && time.Since(gone) > vfsGrace {
				alone = true
				cancel()
			}
			if m.accel == "tcg" || broken != "" || exists(m.at("up")) {
				continue
			}
			if strings.Contains(m.qemuSays.String(), "KVM internal error") {
				broken = "KVM internal error"
			} else if time.Since(started) > bootLimit {
				broken = fmt.Sprintf("no boot within %s", bootLimit)
			}
			if broken != "" {
				cancel()
			}
		}
	}
}

func (m *machine) args() []string {
	// Once in some hours QEMU 7.2 leaves other bits in the flags after cmpxchg16b, and the kernel panics. Where there is no
	// such instruction it uses others.
	cpu := "max,cx16=off"
	accel, cpus := m.accel, 1
	if accel == "kvm" {
		cpu, cpus = "host", 2
	} else {
		accel = "tcg,tb-size=256"
	}
	if m.cpus > 0 {
		cpus = m.cpus
	}
	// A kernel rewrites its own code: when it comes to trust or to mistrust its clock, when the first rule of a hook, the
	// first tunnel comes, the last one goes. While it does a breakpoint stands there. Where QEMU emulates several processors
	// one of them may run into it for longer than the kernel expects it, and the kernel panics, one byte into the
	// instruction that was replaced. With one processor nobody else runs meanwhile.
	a := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "q35,memory-backend=mem,usb=off,smbus=off,sata=off", "-accel", accel, "-cpu", cpu,
		"-smp", strconv.Itoa(cpus), "-m", m.memory,
		"-object", "memory-backend-memfd,id=mem,share=on,size=" + m.memory,
		"-kernel", m.kernel.image, "-initrd", m.initrd,
		"-append", "console=ttyS0 quiet no_timer_check reboot=t panic=-1 mitigations=off random.trust_cpu=on nokaslr audit=0 " +
			"cryptomgr.notests=1 net.ifnames=0 tsc=reliable " + runArg + m.dir + " " + modulesArg + m.kernel.modules,
		"-serial", "file:" + m.at("console"),
		"-chardev", "socket,id=root,path=" + m.at("root.sock"), "-device", "vhost-user-fs-pci,chardev=root,tag=host",
		"-device", "virtio-serial-pci",
		"-chardev", "file,id=out,path=/proc/self/fd/3", "-device", "virtserialport,chardev=out,name=out",
		"-chardev", "file,id=err,path=/proc/self/fd/4", "-device", "virtserialport,chardev=err,name=err",
	}
	if bios := "/usr/share/qemu/qboot.rom"; exists(bios) { // starts a kernel faster than SeaBIOS
		a = append(a, "-bios", bios)
	}
	return a
}

// shareRoot serves the host's root to the guest until stop is called.
func (m *machine) shareRoot(ctx context.Context) (stop func(), err error) {
	path := ""
	for _, p := range []string{"/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", program("virtiofsd")} {
		if exists(p) {
			path = p
			break
		}
	}
	if path == "" {
		return nil, errors.New("no virtiofsd; install qemu-system-x86, or virtiofsd where that is a package of its own")
	}
	args := []string{"--socket-path=" + m.at("root.sock"), "-o", "source=/", "-o", "sandbox=chroot", "-o", "cache=always",
		"-o", "no_posix_lock", "-o", "no_flock"}
	if help, _ := exec.Command(path, "--help").CombinedOutput(); bytes.Contains(help, []byte("--shared-dir")) {
		args = []string{"--socket-path=" + m.at("root.sock"), "--shared-dir=/", "--sandbox=chroot", "--cache=always"}
	}
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, path, append(args, "--thread-pool-size=2")...)
	cmd.Stdout, cmd.Stderr = &m.vfsSays, &m.vfsSays
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	m.vfsEnd = make(chan struct{})
	go func() { _ = cmd.Wait(); close(m.vfsEnd) }()
	stop = func() { cancel(); <-m.vfsEnd }
	for range 500 {
		if exists(m.at("root.sock")) {
			return stop, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	return nil, fmt.Errorf("%s made no socket: %s", path, m.vfsSays.String())
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

// tail is the end of a text file.
func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}

// safeBuffer may be read while a process writes to it.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

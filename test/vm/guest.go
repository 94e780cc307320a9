//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	guestEnv   = "CNIBLOCKS_VM"
	guestTemp  = "/run/tmp"
	runArg     = "vm.run="     // on the kernel's command line: the directory that is shared with the host
	modulesArg = "vm.modules=" // the host's directory of the guest's modules
)

// guest is the first process: it takes the host's root for its own, runs the program, and switches the machine off.
func guest() {
	if err := runGuest(); err != nil {
		fmt.Println("vm:", err) // the console
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {}
}

func runGuest() error {
	if err := loadBootModules(); err != nil {
		return err
	}
	if err := mounts([]mount{{"proc", "proc", "/proc", 0, ""}}); err != nil {
		return err
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	run, modules := argument(string(cmdline), runArg), argument(string(cmdline), modulesArg)
	if err := takeRoot(run, modules); err != nil {
		return err
	}
	if err := systemMounts(); err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(run, "plan"))
	if err != nil {
		return err
	}
	var p plan
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	for _, m := range p.Load {
		if err := wait(start(plan{Argv: []string{"/sbin/modprobe", m}, Dir: "/"}, "/dev/console", "/dev/console")); err != nil {
			return fmt.Errorf("modprobe %s: %w", m, err)
		}
	}
	out, complaint, err := ports()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(run, "up"), nil, 0o600); err != nil {
		return err
	}
	pid, err := start(p, out, complaint)
	if err != nil {
		return fmt.Errorf("start %s in %s: %w; /dev, /proc, /run and /sys are the guest's own", p.Argv[0], p.Dir, err)
	}
	code := exitCode(pid)
	return os.WriteFile(filepath.Join(run, "exit"), []byte(strconv.Itoa(code)), 0o600)
}

func argument(cmdline, prefix string) string {
	for _, w := range strings.Fields(cmdline) {
		if v, ok := strings.CutPrefix(w, prefix); ok {
			return v
		}
	}
	return ""
}

func loadBootModules() error {
	files, err := filepath.Glob("/modules/*")
	if err != nil {
		return err
	}
	slices.Sort(files)
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		if err := unix.InitModule(b, ""); err != nil && err != unix.EEXIST {
			return fmt.Errorf("module %s: %w", f, err)
		}
	}
	return nil
}

type mount struct {
	source, kind, target string
	flags                uintptr
	data                 string
}

func mounts(all []mount) error {
	for _, m := range all {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.target, err)
		}
	}
	return nil
}

// takeRoot makes / an overlay of the host's files, with the directories that the plan says bound through to it.
func takeRoot(run, modules string) error {
	err := mounts([]mount{
		{"host", "virtiofs", "/host", 0, ""},
		{"rw", "tmpfs", "/rw", 0, "size=75%"},
	})
	if err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join("/host", run, "plan"))
	if err != nil {
		return err
	}
	var p plan
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	if err := os.MkdirAll("/rw/upper", 0o755); err != nil {
		return err
	}
	if err := os.MkdirAll("/rw/work", 0o755); err != nil {
		return err
	}
	all := []mount{{"root", "overlay", "/new", 0, "lowerdir=/host,upperdir=/rw/upper,workdir=/rw/work"}}
	for _, w := range p.Write {
		all = append(all, mount{"/host" + w, "", "/new" + w, unix.MS_BIND, ""})
	}
	version := filepath.Base(modules)
	all = append(all, mount{"/host" + modules, "", "/new/lib/modules/" + version, unix.MS_BIND, ""})
	if err := mounts(all); err != nil {
		return err
	}
	if err := os.Chdir("/new"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return os.Chdir("/")
}

// systemMounts are those that an init makes. The ones whose file system a kernel may lack come last, and may fail.
func systemMounts() error {
	err := mounts([]mount{
		{"proc", "proc", "/proc", 0, ""},
		{"sys", "sysfs", "/sys", 0, ""},
		{"dev", "devtmpfs", "/dev", 0, ""},
		{"pts", "devpts", "/dev/pts", 0, "ptmxmode=666"},
		{"shm", "tmpfs", "/dev/shm", 0, "mode=1777"},
		{"run", "tmpfs", "/run", 0, "mode=755"},
		{"cgroup", "cgroup2", "/sys/fs/cgroup", 0, ""},
	})
	if err != nil {
		return err
	}
	for _, m := range []mount{{"bpf", "bpf", "/sys/fs/bpf", 0, ""}, {"trace", "tracefs", "/sys/kernel/tracing", 0, ""}} {
		_ = unix.Mount(m.source, m.target, m.kind, m.flags, m.data)
	}
	for _, d := range []string{"/run/lock", "/run/netns", "/dev/net", guestTemp} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	// As kmod-static-nodes has it: whoever opens it loads the module.
	if err := unix.Mknod("/dev/net/tun", unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))); err != nil && !os.IsExist(err) {
		return err
	}
	if err := os.Symlink("/proc/self/fd", "/dev/fd"); err != nil && !os.IsExist(err) {
		return err
	}
	if err := unix.Sethostname([]byte("vm")); err != nil {
		return err
	}
	return upLoopback()
}

func upLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// ports are the two virtio ports that lead to the host's stdout and stderr.
func ports() (out, complaint string, err error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return "", "", err
	}
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			return "", "", err
		}
		dev := "/dev/" + filepath.Base(filepath.Dir(n))
		switch strings.TrimSpace(string(b)) {
		case "out":
			out = dev
		case "err":
			complaint = dev
		}
	}
	if out == "" || complaint == "" {
		return "", "", fmt.Errorf("no virtio ports for stdout and stderr among %d", len(names))
	}
	return out, complaint, nil
}

func start(p plan, out, complaint string) (pid int, err error) {
	var files [3]*os.File
	for i, open := range []struct {
		path string
		flag int
	}{{"/dev/null", os.O_RDONLY}, {out, os.O_WRONLY}, {complaint, os.O_WRONLY}} {
		if files[i], err = os.OpenFile(open.path, open.flag, 0); err != nil {
			return 0, err
		}
		defer files[i].Close()
	}
	env := p.Env
	if env == nil {
		env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	}
	return syscall.ForkExec(p.Argv[0], p.Argv, &syscall.ProcAttr{
		Dir: p.Dir, Env: env, Files: []uintptr{files[0].Fd(), files[1].Fd(), files[2].Fd()},
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
}

// exitCode waits for the program, and for the orphans that a first process inherits.
func exitCode(pid int) int {
	for {
		var status unix.WaitStatus
		got, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR || err == nil && got != pid:
			continue
		case err != nil:
			fmt.Println("vm: wait:", err)
			return exitCannotRun
		case status.Signaled():
			return 128 + int(status.Signal())
		default:
			return status.ExitStatus()
		}
	}
}

func wait(pid int, err error) error {
	if err != nil {
		return err
	}
	if code := exitCode(pid); code != 0 {
		return fmt.Errorf("exit code %d", code)
	}
	return nil
}

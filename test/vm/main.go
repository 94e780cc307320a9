//go:build linux

// Command vm runs a program of this machine inside another kernel: Debian's, in QEMU, with this machine's root
// filesystem as its own. The running kernel may lack what a test needs (GRE, WireGuard, VLAN filtering ...); that one
// has it.
//
//	go test -exec "$PWD/out/vm" ./overlay        one boot for a package with all its tests
//	out/vm ./overlay.test -test.run GRE          a compiled test binary, or any other program
//	out/vm -check                                fetch the kernel, boot it once, say how long it took
//
// The program runs as root, with the environment and the working directory of its caller; stdout and stderr stay apart.
// It sees all files of the host but those in /dev, /proc, /run and /sys. What it writes is gone at the end, except in the
// directory of a binary that go test made, and below those named with -w. Kernel modules load by themselves.
//
// The exit code is the program's; 124 when it took too long, 125 when the machine could not run it, with one line that
// begins "vm: CANNOT RUN". The guest is marked by CNIBLOCKS_VM=1.
//
// The same executable is the first process of the guest.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The exit codes that are not the program's.
const (
	exitTimeout   = 124
	exitCannotRun = 125
)

type config struct {
	kernel  string
	modules string
	memory  string
	cpus    int
	limit   time.Duration
	write   list
	load    list
	accel   string
	verbose bool
}

type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(v string) error { *l = append(*l, strings.Split(v, ",")...); return nil }

func main() {
	if os.Getpid() == 1 && os.Getenv(guestEnv) == "" {
		guest()
	}
	os.Exit(host())
}

func host() int {
	var c config
	flag.StringVar(&c.kernel, "kernel", os.Getenv("CNIBLOCKS_VM_KERNEL"), "bzImage; default: Debian's, fetched once")
	flag.StringVar(&c.modules, "modules", os.Getenv("CNIBLOCKS_VM_MODULES"), "its directory of modules, with modules.dep; default: ../lib/modules/VERSION")
	flag.StringVar(&c.memory, "memory", "1G", "of the guest")
	flag.IntVar(&c.cpus, "cpus", 0, "of the guest; default: 2 with kvm, 1 with tcg, which more of them may kill")
	flag.DurationVar(&c.limit, "limit", 30*time.Minute, "how long the program may run")
	flag.Var(&c.write, "w", "directory below which writes reach the host")
	flag.Var(&c.load, "load", "modules to load first, separated by commas")
	flag.StringVar(&c.accel, "accel", os.Getenv("CNIBLOCKS_VM_ACCEL"), "kvm or tcg; default: kvm where it works")
	flag.BoolVar(&c.verbose, "v", false, "show the guest's console and the time that the boot took")
	check := flag.Bool("check", false, "run nothing: fetch what is missing, boot once, print the time")
	flag.Parse()

	argv := flag.Args()
	if *check {
		argv = []string{"/bin/true"}
	}
	if len(argv) == 0 {
		flag.Usage()
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM, unix.SIGQUIT)
	defer stop()
	code, took, err := run(ctx, c, argv)
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm: CANNOT RUN:", err)
		return exitCannotRun
	}
	if *check || c.verbose {
		fmt.Fprintf(os.Stderr, "vm: %s\n", took)
	}
	return code
}

// times of one run.
type times struct {
	kernel string
	accel  string
	boot   time.Duration // from the start of QEMU to the start of the program
	all    time.Duration
}

func (t times) String() string {
	return fmt.Sprintf("kernel %s with %s: booted in %.1f s, all in %.1f s", t.kernel, t.accel, t.boot.Seconds(), t.all.Seconds())
}

func run(ctx context.Context, c config, argv []string) (int, times, error) {
	start := time.Now()
	var t times
	p, err := newPlan(c, argv)
	if err != nil {
		return 0, t, err
	}
	k, err := findKernel(ctx, c)
	if err != nil {
		return 0, t, err
	}
	initrd, err := ensureInitrd(k)
	if err != nil {
		return 0, t, fmt.Errorf("initramfs of kernel %s: %w", k.version, err)
	}
	t.kernel = k.version
	for _, t.accel = range accelerators(c.accel) {
		var code int
		err = persist(func() (err error) {
			m := &machine{config: c, kernel: k, initrd: initrd, plan: p, accel: t.accel}
			code, t.boot, err = m.run(ctx)
			return err
		})
		t.all = time.Since(start)
		var broken *brokenAccelError
		if errors.As(err, &broken) {
			rememberBroken(t.accel)
			fmt.Fprintf(os.Stderr, "vm: %v; going on without it\n", err)
			continue
		}
		return code, t, err
	}
	return 0, t, err
}

// plan is what the guest is told, as JSON in the directory that it shares with the host.
type plan struct {
	Argv  []string
	Env   []string
	Dir   string
	Write []string
	Load  []string
}

func newPlan(c config, argv []string) (plan, error) {
	bin, err := exec.LookPath(argv[0])
	if err == nil {
		bin, err = filepath.Abs(bin)
	}
	if err == nil {
		bin, err = filepath.EvalSymlinks(bin)
	}
	if err != nil {
		return plan{}, err
	}
	dir, err := os.Getwd()
	if err != nil {
		return plan{}, err
	}
	p := plan{Argv: append([]string{bin}, argv[1:]...), Dir: dir, Load: c.load, Env: guestEnviron(os.Environ())}
	for _, w := range c.write {
		abs, err := filepath.Abs(w)
		if err != nil {
			return plan{}, err
		}
		p.Write = append(p.Write, abs)
	}
	if strings.HasSuffix(bin, ".test") && strings.Contains(bin, "/go-build") {
		p.Write = append(p.Write, filepath.Dir(bin))
	}
	return p, nil
}

// guestEnviron leaves out what names places that the guest has none of.
func guestEnviron(env []string) []string {
	var out []string
	for _, e := range env {
		key, _, _ := strings.Cut(e, "=")
		switch key {
		case "TMPDIR", "XDG_RUNTIME_DIR", guestEnv:
			continue
		}
		out = append(out, e)
	}
	return append(out, guestEnv+"=1", "TMPDIR="+guestTemp)
}

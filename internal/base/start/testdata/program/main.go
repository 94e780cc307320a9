// Program program says how it was started.
package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"github.com/cniblocks/cniblocks/internal/base/start"
)

func init() { runtime.LockOSThread() }

func main() {
	var limit syscall.Rlimit
	_ = syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	tasks, _ := os.ReadDir("/proc/self/task")
	var threads, slacks []string
	for _, t := range tasks {
		threads = append(threads, allowed("/proc/self/task/"+t.Name()+"/status"))
		slack, _ := os.ReadFile("/proc/" + t.Name() + "/timerslack_ns")
		slacks = append(slacks, strings.TrimSpace(string(slack)))
	}
	start.Spread()
	child, _ := exec.Command("/bin/sh", "-c", "ulimit -n; grep Cpus_allowed: /proc/$$/status; cat /proc/$$/timerslack_ns").Output()
	_ = json.NewEncoder(os.Stdout).Encode(map[string]any{
		"args": os.Args, "env": os.Environ(), "processors": runtime.GOMAXPROCS(0), "page": os.Getpagesize(),
		"limit": limit, "threads": threads, "slacks": slacks, "child": strings.TrimSpace(string(child)),
	})
}

// allowed is the mask of the processors that a thread may run on.
func allowed(status string) string {
	text, _ := os.ReadFile(status)
	_, rest, _ := strings.Cut(string(text), "Cpus_allowed:\t")
	mask, _, _ := strings.Cut(rest, "\n")
	return mask
}

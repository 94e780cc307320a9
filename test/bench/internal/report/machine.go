//go:build linux

package report

import (
	"bufio"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine says where a benchmark ran.
type Machine struct {
	Cores      int     `json:"cores"`
	CPU        string  `json:"cpu"`
	Load       float64 `json:"load"` // average of the last minute, at the start
	Kernel     string  `json:"kernel"`
	Go         string  `json:"go"`
	FileSystem string  `json:"file_system"` // that of the lease files
	IPTables   string  `json:"iptables"`    // what the reference plugins call; empty if missing
	NFT        string  `json:"nft"`
}

// ThisMachine describes the running machine.
func ThisMachine() Machine {
	return Machine{
		Cores: runtime.NumCPU(), CPU: model(), Load: load(), Kernel: kernel(), Go: runtime.Version(),
		IPTables: version("iptables"), NFT: version("nft"),
	}
}

// Busy reports whether others use so much of the machine that times mean little.
func (m Machine) Busy() bool { return m.Load > float64(m.Cores)/2 }

func load() float64 {
	var i unix.Sysinfo_t
	if unix.Sysinfo(&i) != nil {
		return 0
	}
	return float64(i.Loads[0]) / 65536
}

func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Machine[:])
}

func model() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if key, value, _ := strings.Cut(lines.Text(), ":"); strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// version is the first line of what the program says about itself, empty if it is missing.
func version(program string) string {
	out, err := exec.Command(program, "--version").Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

//go:build linux

package trace

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const log = `100 execve("/bin/bridge", ["/bin/bridge"], 0x7ffe /* 6 vars */) = 0 <0.000300>
100 clone(child_stack=0xc000, flags=CLONE_VM|CLONE_FS|CLONE_THREAD|CLONE_SYSVSEM) = 101 <0.000020>
101 futex(0xc0001, FUTEX_WAIT_PRIVATE, 0, NULL <unfinished ...>
101 nanosleep({tv_sec=0, tv_nsec=20000}, NULL) = 0 <0.000070>
100 socket(AF_NETLINK, SOCK_RAW|SOCK_CLOEXEC, NETLINK_ROUTE) = 4<NETLINK:[12]> <0.000010>
100 sendto(4<NETLINK:[12]>, [...], 32, 0, {sa_family=AF_NETLINK}, 12) = 32 <0.000400>
100 write(1<pipe:[5]>, ""..., 20) = 20 <0.000005>
101 <... futex resumed>) = 0 <0.002000>
100 clone(child_stack=NULL, flags=CLONE_VM|CLONE_VFORK|SIGCHLD <unfinished ...>
102 execve("/sbin/host-local", ["/bin/host-local"], 0x7ffe /* 6 vars */) = -1 ENOENT (No such file or directory) <0.000030>
102 execve("/bin/host-local", ["/bin/host-local"], 0x7ffe /* 6 vars */ <unfinished ...>
102 <... execve resumed>)             = 0 <0.000300>
102 sendmsg(3<NETLINK:[ROUTE:7]>, {msg_name=NULL}, 0) = 20 <0.000100>
100 <... clone resumed>) = 102 <0.001000>
102 exit_group(0) = ?
102 +++ exited with 0 +++
100 --- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED} ---
100 exit_group(0) = ?
`

func TestLogOfStraceCountsEveryCallOnce(t *testing.T) {
	t.Parallel()
	c, err := Parse(strings.NewReader(log))
	require.NoError(t, err)
	require.Equal(t, 12, c.Syscalls, "a nap is not counted")
	require.Equal(t, 2, c.Processes, "neither a thread nor a failed attempt is a process")
	require.Equal(t, 2, c.NetlinkWrites, "a pipe is no netlink socket")
	require.Equal(t, 1, c.Calls["futex"].Count)
	require.InDelta(t, 0.002, c.Calls["futex"].Seconds, 1e-9)
	require.Equal(t, 3, c.Calls["execve"].Count)
}

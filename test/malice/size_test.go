//go:build linux

package malice

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
)

// list is a JSON list of n items.
func list(n int, item func(i int) string) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(item(i))
	}
	return "[" + b.String() + "]"
}

func subnet(i int) string { return fmt.Sprintf("%d.%d.%d.0/24", 11+i>>16&127, i>>8&255, i&255) }

func TestHugeConfigurationsAreBoundedInTimeAndMemory(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	p := pod(t, m, "x")
	conf := func(ipam, more string) string {
		return `{"cniVersion":"1.1.0","name":"net","type":"bridge","bridge":"br0","isGateway":true,"ipMasq":true,"ipam":{"type":"host-local","dataDir":"` +
			m.Dir + `",` + ipam + `}` + more + `}`
	}
	const one, most = `"subnet":"10.1.0.0/16"`, 512 << 20 // bytes of memory
	deep := strings.Repeat("[", 3<<20) + strings.Repeat("]", 3<<20)
	addresses := list(100_000, func(i int) string { return fmt.Sprintf(`{"address":"10.1.%d.%d/16"}`, i>>8&255, i&255) })
	for name, c := range map[string]struct {
		verb cni.Verb
		conf string
		says string // "" where the plugin can do what it is asked
	}{
		"longer than is read":    {cni.ADD, conf(one, `,"x":"`+strings.Repeat("x", 9<<20)+`"`), "longer than 8388608 bytes"},
		"nested":                 {cni.ADD, conf(one, `,"args":`+deep), "depth"},
		"nested prevResult":      {cni.CHECK, conf(one, `,"prevResult":`+deep), "depth"},
		"ranges":                 {cni.ADD, conf(`"ranges":`+list(200_000, func(i int) string { return `[{"subnet":"` + subnet(i) + `"}]` }), ""), "200000 ranges are more than 1024"},
		"ranges of one set":      {cni.ADD, conf(`"ranges":[`+list(200_000, func(i int) string { return `{"subnet":"` + subnet(i) + `"}` })+`]`, ""), "200000 ranges are more than 1024"},
		"trunk":                  {cni.STATUS, conf(one, `,"vlanTrunk":`+list(100_000, func(int) string { return `{"minID":1,"maxID":4094}` })), ""},
		"exceptions":             {cni.STATUS, conf(one, `,"ipMasqExcept":`+list(100_000, func(i int) string { return `"` + subnet(i) + `"` })), ""},
		"unknown keys":           {cni.STATUS, conf(one, ","+strings.Trim(list(200_000, func(i int) string { return fmt.Sprintf(`"key%d":1`, i) }), "[]")), ""},
		"one long key":           {cni.STATUS, conf(one, `,"`+strings.Repeat("x", 6<<20)+`":1`), ""},
		"one long value":         {cni.ADD, conf(one, `,"ipMasqBackend":"`+strings.Repeat("x", 6<<20)+`"`), `ipMasqBackend`},
		"prevResult of CHECK":    {cni.CHECK, conf(one, `,"prevResult":{"cniVersion":"1.1.0","ips":`+addresses+`}`), "no address is leased in this network"},
		"prevResult of DEL":      {cni.DEL, conf(one, `,"prevResult":{"cniVersion":"1.1.0","ips":`+addresses+`}`), ""},
		"many valid attachments": {cni.GC, conf(one, `,"cni.dev/valid-attachments":`+list(100_000, func(i int) string { return fmt.Sprintf(`{"containerID":"c%d","ifname":"eth0"}`, i) })), ""},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(soon(t), m.Bin+"/bridge")
			cmd.Env = []string{"CNI_COMMAND=" + string(c.verb), "CNI_CONTAINERID=x", "CNI_IFNAME=eth0", "CNI_NETNS=" + p.Path, "CNI_PATH=" + m.Path}
			cmd.Stdin = strings.NewReader(c.conf)
			var out, errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errs
			err := m.NS.Do(cmd.Run)
			require.NotNil(t, cmd.ProcessState, "%v", err)
			rss := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
			t.Logf("%d kB of configuration: %d MB of memory, %s of processor time, answer %.100s", len(c.conf)>>10, rss>>20,
				cmd.ProcessState.UserTime(), out.String())
			require.Less(t, rss, int64(most))
			require.Less(t, errs.Len(), 64<<10)
			require.Less(t, out.Len(), 64<<10)
			if c.says == "" {
				require.NoError(t, err, out.String())
				return
			}
			require.Error(t, err)
			require.Equal(t, 1, cmd.ProcessState.ExitCode())
			require.Contains(t, out.String(), c.says)
		})
	}
}

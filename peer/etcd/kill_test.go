//go:build linux

package etcd_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/etcdtest"
	"github.com/cniblocks/cniblocks/peer/etcd"
)

// acquirer is in the environment of a copy of the tests that does nothing but take ranges; its value is the state file.
const (
	acquirer       = "CNIBLOCKS_TEST_ACQUIRER"
	acquirerPrefix = "CNIBLOCKS_TEST_PREFIX"
)

// acquireUntilKilled does what an agent does at its start, and says when it begins.
func acquireUntilKilled(file string) {
	s, err := etcd.New(etcd.Options{Endpoints: []string{etcdtest.URL}, Prefix: os.Getenv(acquirerPrefix), StateFile: file})
	if err == nil {
		fmt.Println("begin")
		p, e := s.Acquire(context.Background(), want("a", "192.0.2.1"))
		if err = e; err == nil {
			err = s.Publish(context.Background(), vxlan(p, 1))
		}
	}
	fmt.Println(err)
	select {}
}

func TestANodeThatIsKilledAtAnyMomentLeavesNoLeaseThatNobodyUses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, etcdtest.New(t), small)
	state := w.stateFile()
	for round := range 25 {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), acquirer+"="+state, acquirerPrefix+"="+w.prefix)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, w.s.NS.Do(cmd.Start))
		_, err = out.Read(make([]byte, len("begin")))
		require.NoError(t, err)
		time.Sleep(time.Duration(rand.IntN(40)) * time.Millisecond)
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
		require.LessOrEqual(t, len(w.leases()), 1, "round %d", round)
		require.LessOrEqual(t, len(w.keys()), 1, "round %d", round)
		if round%5 == 4 { // begin anew, with what the last ones left
			w.s.Ctl(t, "del", "--prefix", w.prefix+"/subnets/")
		}
	}
	_, err := w.node(withState(state)).Acquire(within(t, patience), want("a", "192.0.2.1"))
	require.NoError(t, err)
	require.Len(t, w.leases(), 1)
	require.Len(t, w.keys(), 1)
}

//go:build linux

package masq

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/netns"
)

// child makes the test binary a process that calls Ensure once: namespace, backend, network.
const child = "MASQ_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(child) != "" {
		if err := childMain(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	nstest.Main(m)
}

func childMain(args []string) error {
	ns, err := netns.Open(args[0])
	if err != nil {
		return err
	}
	defer ns.Close()
	_, err = Ensure(context.Background(), ns, args[1], dual(args[2]))
	return err
}

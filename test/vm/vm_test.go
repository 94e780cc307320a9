//go:build linux

package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

func TestModulesAreLoadedAfterWhatTheyNeedAndOnce(t *testing.T) {
	t.Parallel()
	const dep = `kernel/fs/fuse/fuse.ko.xz:
kernel/fs/fuse/virtiofs.ko.xz: kernel/fs/fuse/fuse.ko.xz kernel/drivers/virtio/virtio.ko.xz kernel/drivers/virtio/virtio_ring.ko.xz
kernel/drivers/virtio/virtio.ko.xz: kernel/drivers/virtio/virtio_ring.ko.xz
kernel/drivers/virtio/virtio_ring.ko.xz:
kernel/drivers/char/virtio-console.ko.xz: kernel/drivers/virtio/virtio.ko.xz kernel/drivers/virtio/virtio_ring.ko.xz
`
	require.Equal(t, []string{
		"kernel/drivers/virtio/virtio_ring.ko.xz", "kernel/drivers/virtio/virtio.ko.xz", "kernel/fs/fuse/fuse.ko.xz",
		"kernel/fs/fuse/virtiofs.ko.xz", "kernel/drivers/char/virtio-console.ko.xz",
	}, loadOrder(dep, []string{"virtiofs", "virtio_console", "built_in"}))
}

func TestTheArchiveHasAHeaderOf110BytesAndPartsOfFour(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	writeCPIO(&b, []file{{name: "init", mode: 0o100755, data: []byte("hello")}, {name: "dev", mode: 0o040755}})
	text := b.String()
	require.Zero(t, b.Len()%4)
	require.Equal(t, "070701"+"00000001"+"000081ed"+"00000000"+"00000000"+"00000001"+"00000000"+"00000005"+
		strings.Repeat("00000000", 4)+"00000005"+"00000000"+"init\x00\x00hello\x00\x00\x00"+"070701", text[:110+6+8+6])
	require.Contains(t, text, "TRAILER!!!")
}

func TestAModuleIsUnpackedWhateverItsCompression(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	plain := filepath.Join(dir, "a.ko")
	require.NoError(t, os.WriteFile(plain, []byte("module"), 0o600))
	for path, argv := range map[string][]string{plain: nil, plain + ".gz": {"gzip", "-k", plain}, plain + ".xz": {"xz", "-k", plain}} {
		if argv != nil {
			require.NoError(t, exec.Command(argv[0], argv[1:]...).Run())
		}
		got, err := readModule(path)
		require.NoError(t, err)
		require.Equal(t, "module", string(got))
	}
	require.NoError(t, os.WriteFile(plain+".xz", []byte("torn"), 0o600))
	_, err := readModule(plain + ".xz")
	require.ErrorContains(t, err, "a.ko.xz")
}

func TestTheProgramGetsTheCallersEnvironmentLessItsPlaces(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"A=1", "B=2", "CNIBLOCKS_VM=1", "TMPDIR=/run/tmp"},
		guestEnviron([]string{"A=1", "TMPDIR=/elsewhere", "XDG_RUNTIME_DIR=/run/user/0", "B=2"}))
}

func TestADirectoryThatGoTestMadeTakesTheProgramsFiles(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "go-build1", "b001")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	bin := filepath.Join(dir, "x.test")
	require.NoError(t, os.WriteFile(bin, nil, 0o755))
	p, err := newPlan(config{write: list{"/a"}}, []string{bin, "-test.v"})
	require.NoError(t, err)
	require.Equal(t, []string{bin, "-test.v"}, p.Argv)
	require.Equal(t, []string{"/a", dir}, p.Write)
	_, err = newPlan(config{}, []string{"/no/such/program"})
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestAKernelWithoutItsModulesIsRefusedWithTheFlagToUse(t *testing.T) {
	t.Parallel()
	image := filepath.Join(t.TempDir(), "vmlinuz-1.2.3")
	require.NoError(t, os.WriteFile(image, nil, 0o600))
	_, err := kernelAt(image, "")
	require.ErrorContains(t, err, "-modules")
}

func TestAGuestThatDiesIsStartedAgainAsLongAsItHasNotBegunWithTheProgram(t *testing.T) {
	t.Parallel()
	booting, later, other := &deadGuestError{booting: true}, &deadGuestError{}, errors.New("no QEMU")
	for _, ends := range [][]error{
		{nil}, {other}, {later}, {booting, nil}, {booting, booting, later}, {booting, booting, booting},
	} {
		n := 0
		err := persist(func() error { n++; return ends[n-1] })
		require.Equal(t, ends[len(ends)-1], err)
		require.Len(t, ends, n)
	}
}

// TestInTheOtherKernel runs in the virtual machine only, where this test is the program.
func TestInTheOtherKernel(t *testing.T) {
	t.Parallel()
	if os.Getenv(guestEnv) == "" {
		t.Skip("lane: needs another kernel, runs in the vm lane")
	}
	require.Zero(t, os.Geteuid())
	require.Equal(t, guestTemp, os.Getenv("TMPDIR"))
	require.FileExists(t, "main.go") // the working directory, and the host's files
	require.NoError(t, os.WriteFile("/not-on-the-host", nil, 0o600))
	for _, f := range []nstest.Feature{
		nstest.GRE, nstest.GRETap, nstest.IP6GRE, nstest.IP6GRETap, nstest.IPIP, nstest.SIT, nstest.IP6Tnl, nstest.Geneve,
		nstest.WireGuard, nstest.VXLAN, nstest.Bridge, nstest.VLAN, nstest.VLANFiltering, nstest.Dummy, nstest.Netem,
		nstest.NFT, nstest.NFTBridge, nstest.IPTables, nstest.IP6Tables, nstest.VRF, nstest.Shaping,
	} {
		require.True(t, nstest.Has(f), "%s", f)
	}
}

package overlay_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/plugins/overlay"
)

func TestTheShippedFilesBringUpAnOverlay(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../examples/overlay/*.conflist")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	peers, err := filepath.Abs("../../examples/overlay/peers.json")
	require.NoError(t, err)
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 1)
			m := w.machines[0]
			b, err := os.ReadFile(f)
			require.NoError(t, err)
			conf := strings.NewReplacer("/etc/cniblocks/peers.json", peers, "/etc/cniblocks/far.json", peers, "/etc/cniblocks/near.json", peers,
				`"ipMasq": true`, `"ipMasq": true, "stateDir": "`+t.TempDir()+`"`).Replace(string(b))
			before := nstest.Dump(m.ns)
			reports, err := overlay.Up(t.Context(), m.ns, []byte(conf))
			require.NoError(t, err)
			require.Equal(t, "a", reports[0].Self)
			require.Contains(t, nstest.Dump(m.ns), "10.244.2.0/24")
			require.NoError(t, overlay.Down(t.Context(), m.ns, []byte(conf)))
			require.Equal(t, before, nstest.Dump(m.ns))
		})
	}
}

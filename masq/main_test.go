//go:build linux

package masq

import (
	"testing"

	"github.com/cniblocks/cniblocks/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

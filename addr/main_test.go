//go:build linux

package addr_test

import (
	"testing"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

//go:build linux

package start

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheMonitorThreadIsPatient(t *testing.T) {
	t.Parallel()
	told := run(t, program(t, true), []string{"a"}, []string{})
	require.Contains(t, told.Slacks[1:], strconv.Itoa(patience))
}

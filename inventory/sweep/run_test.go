//go:build linux

package sweep

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhenADeviceCannotBeRemovedItsLeasesStayAndTheRestGoes(t *testing.T) {
	t.Parallel()
	stuck := errors.New("device or resource busy")
	var did []string
	step := func(name string, s Step, err error) Step {
		s.Name = name
		s.do = func(context.Context) error {
			did = append(did, name)
			return err
		}
		return s
	}
	p := Plan{Steps: []Step{
		step("first", Step{device: true}, stuck), step("second", Step{device: true}, nil),
		step("bridge", Step{device: true, last: true}, nil), step("SNAT", Step{}, nil), step("leases", Step{last: true}, nil),
	}}
	said := map[string]error{}
	err := p.Run(t.Context(), func(s Step, err error) { said[s.Name] = err })
	require.ErrorIs(t, err, stuck)
	require.Equal(t, []string{"first", "second", "SNAT"}, did)
	require.ErrorIs(t, said["leases"], ErrSkipped)
	require.ErrorIs(t, said["bridge"], ErrSkipped)
	require.NoError(t, said["SNAT"])
}

package stats

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestQuantilesInterpolateAndLeaveTheSampleInOrder(t *testing.T) {
	t.Parallel()
	s := Sample{4, 1, 3, 2}
	require.Equal(t, 2.5, s.Median())
	require.InDelta(t, 1.3, s.Quantile(0.1), 1e-9)
	require.InDelta(t, 3.7, s.Quantile(0.9), 1e-9)
	require.Equal(t, 1.0, s.Quantile(0))
	require.Equal(t, 4.0, s.Quantile(1))
	require.Equal(t, 2.5, s.Mean())
	require.Equal(t, Sample{4, 1, 3, 2}, s)
}

func TestAnEmptySampleHasNoMedian(t *testing.T) {
	t.Parallel()
	require.True(t, math.IsNaN(Sample(nil).Median()))
	require.True(t, math.IsNaN(Sample{}.Mean()))
	require.Equal(t, 7.0, Sample{7}.Quantile(0.9))
}

func TestSpreadOfARatioIsBlindToDrift(t *testing.T) {
	t.Parallel()
	// The machine gets four times as slow on the way; a is always a quarter of b.
	var a, b Sample
	for i := range 40 {
		speed := 1 + 3*float64(i)/40
		a, b = append(a, speed), append(b, 4*speed)
	}
	r := Compare(a, b, 2)
	require.InDelta(t, 0.25, r.Value, 1e-9)
	require.InDelta(t, 0.25, r.P10, 1e-9)
	require.InDelta(t, 0.25, r.P90, 1e-9)
}

func TestRatioOfTooFewMeasurementsHasNoSpread(t *testing.T) {
	t.Parallel()
	r := Compare(Sample{1}, Sample{2}, 2)
	require.Equal(t, 0.5, r.Value)
	require.True(t, math.IsNaN(r.P10))
}

func TestEverySideGoesFirstAsOftenAsLast(t *testing.T) {
	t.Parallel()
	require.Equal(t, []int{0, 1, 1, 0}, Order(2))
	require.Equal(t, []int{0, 1, 2, 2, 1, 0}, Order(3))
}

// Package stats condenses the samples of a benchmark: quantiles, and the ratio of two samples that were taken in turns.
package stats

import (
	"math"
	"slices"
)

// Sample is a series of measurements in the order in which they were taken. The zero value is an empty one.
type Sample []float64

// Quantile is the value below which the fraction q (0 to 1) of the sample lies, interpolated between neighbours. That of
// an empty sample is NaN.
func (s Sample) Quantile(q float64) float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s))
	pos := min(max(q, 0), 1) * float64(len(sorted)-1)
	low := int(pos)
	if low == len(sorted)-1 {
		return sorted[low]
	}
	return sorted[low] + (pos-float64(low))*(sorted[low+1]-sorted[low])
}

// Median is the middle of the sample, NaN if it is empty.
func (s Sample) Median() float64 { return s.Quantile(0.5) }

// Mean is the arithmetic mean, NaN if the sample is empty.
func (s Sample) Mean() float64 {
	var sum float64
	for _, v := range s {
		sum += v
	}
	return sum / float64(len(s))
}

// Ratio compares two samples.
type Ratio struct {
	Value    float64 // of the medians
	P10, P90 float64 // of the ratios of neighbouring blocks, NaN without any
}

// Compare gives the ratio of the medians of a and b. The spread comes from the ratios of blocks of that many neighbouring
// measurements: a machine that gets slower for a minute slows both sides of a block and leaves its ratio alone.
func Compare(a, b Sample, block int) Ratio {
	block = max(block, 1)
	r := Ratio{Value: a.Median() / b.Median()}
	var blocks Sample
	for i := 0; i+block <= min(len(a), len(b)); i += block {
		blocks = append(blocks, a[i:i+block].Mean()/b[i:i+block].Mean())
	}
	r.P10, r.P90 = blocks.Quantile(0.1), blocks.Quantile(0.9)
	return r
}

// Order is the order in which n sides take part in a block of two rounds each: forwards, then backwards (A B B A).
func Order(n int) []int {
	order := make([]int, 0, 2*n)
	for i := range n {
		order = append(order, i)
	}
	for i := range n {
		order = append(order, n-1-i)
	}
	return order
}

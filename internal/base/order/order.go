// Package order sorts lists in programs that have to be small. [slices.SortFunc] is compiled anew for each type, 20 kB each time.
package order

import (
	"iter"
	"slices"
	"sort"
)

// By sorts as [slices.SortFunc] does.
func By[T any](list []T, cmp func(a, b T) int) { sort.Sort(by[T]{list, cmp}) }

type by[T any] struct {
	list []T
	cmp  func(a, b T) int
}

func (b by[T]) Len() int           { return len(b.list) }
func (b by[T]) Less(i, j int) bool { return b.cmp(b.list[i], b.list[j]) < 0 }
func (b by[T]) Swap(i, j int)      { b.list[i], b.list[j] = b.list[j], b.list[i] }

// Sorted is [slices.SortedFunc].
func Sorted[T any](seq iter.Seq[T], cmp func(a, b T) int) []T {
	list := slices.Collect(seq)
	By(list, cmp)
	return list
}

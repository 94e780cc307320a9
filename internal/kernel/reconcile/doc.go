// Package reconcile brings objects of the kernel in step with those that are wanted: addresses of links, routes, neighbours, FDB
// entries. It knows neither who wants them nor why.
//
// [Objects] is the wanted set. [Objects.Compare] sets it against what the kernel has, with [Judges] that tell what is whose, and
// yields [Changes]: written in one batch they mend, as words they are what a check reports.
package reconcile

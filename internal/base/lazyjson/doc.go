// Package lazyjson reads, scans and writes JSON in a process that has just begun. Package json prepares all fields of a type,
// and all that is inside them, before it reads or writes the first one, which then takes longer than the work itself.
//
// [Unmarshal] and [Marshal] do what those of package json do, and leave to it what they are not made for, errors above all.
// [Members] and [Elements] walk over a text that [Document] has approved, for those who tell of unknown and repeated keys or
// keep what is good of a document with a bad value. [Object] is one whose keys are edited and whose values are kept as they
// are written.
package lazyjson

package rtnl

import (
	"fmt"
	"strings"
)

// CheckName refuses a name that no interface can have, an empty one, for which the kernel would choose another, and one
// with '%', which it would take for a pattern.
func CheckName(s string) error {
	switch {
	case s == "", len(s) > 15, s == ".", s == "..", strings.ContainsAny(s, "/:% \t\n\v\f\r\x00"), strings.IndexByte(s, 0xa0) >= 0:
		return fmt.Errorf("interface name %q: want at most 15 bytes without '/', ':', '%%' and white space", s)
	}
	return nil
}

// Package version says what a program was built from.
package version

import (
	"runtime"
	"runtime/debug"
	"strings"
)

// archived is the commit in files that come from git-archive(1), such as the tarballs of a forge: .gitattributes has git
// write it here.
const archived = "$Format:%H$"

// String is the version, the commit where it can be known, the Go release and the platform, without the program's name.
func String() string {
	var settings []debug.BuildSetting
	v := "(devel)"
	if info, ok := debug.ReadBuildInfo(); ok {
		settings = info.Settings
		if info.Main.Version != "" {
			v = info.Main.Version
		}
	}
	return v + ", " + commit(settings, archived) + ", " + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH
}

// commit is of the checkout that was built, else of the archive.
func commit(settings []debug.BuildSetting, archived string) string {
	id := archived
	for _, s := range settings {
		if s.Key == "vcs.revision" {
			id = s.Value
		}
	}
	if id == "" || strings.HasPrefix(id, "$") {
		return "commit unknown: built outside of a checkout and of an archive made by git"
	}
	return "commit " + id[:min(12, len(id))]
}

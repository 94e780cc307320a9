package file

import (
	"io/fs"
	"syscall"
)

func stat(info fs.FileInfo) ID {
	id := ID{Size: info.Size(), Mtime: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		id.Dev, id.Ino, id.Ctime = st.Dev, st.Ino, st.Ctim.Nano()
	}
	return id
}

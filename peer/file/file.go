// Package file keeps a pod network in a peers document on disk: read ([Load]), followed while it changes ([Source]),
// replaced in one step ([Write]), and known again cheaply when it has not changed ([ID]).
//
// What the document says is the business of package peer.
package file

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/cniblocks/cniblocks/peer"
)

// Document is what was read from a file.
type Document struct {
	peer.Network               // the good peers
	Problems     peer.Problems // what is wrong with the others, and warnings
	ID           ID            // of the very content that was read
}

// Load reads a peers document. Peers that are unusable are left out and told in Problems; a document that is unusable as
// a whole is an error. A file that is not there is [io/fs.ErrNotExist]. It never waits, whatever the path names.
func Load(path string) (Document, error) {
	data, id, err := read(path)
	if err != nil {
		return Document{}, fmt.Errorf("peers file: %w", err)
	}
	n, problems, err := peer.Parse(data)
	if err != nil {
		return Document{}, fmt.Errorf("peers file %s: %w", path, err)
	}
	return Document{Network: n, Problems: problems, ID: id}, nil
}

// Write puts a network into a file, in one step: whoever reads it sees the old document or the new one. A network that
// is not valid in all parts is refused. The file keeps its permissions; a new one has 0644. Behind a symbolic link it is
// the file that is replaced, not the link.
func Write(path string, n peer.Network) error {
	if err := n.Validate(); err != nil {
		return fmt.Errorf("peers file %s is left as it is: %w", path, err)
	}
	data := peer.Format(n)
	if len(data) > peer.MaxSize {
		return fmt.Errorf("peers file %s is left as it is: %d bytes are more than %d: split the network", path, len(data), peer.MaxSize)
	}
	if to, err := filepath.EvalSymlinks(path); err == nil {
		path = to
	}
	if err := replace(path, data); err != nil {
		return fmt.Errorf("write peers file: %w", err)
	}
	return nil
}

func replace(path string, data []byte) (err error) {
	mode := fs.FileMode(0o644)
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if e := f.Chmod(mode); err == nil {
		err = e
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// read returns what is in a file and what identifies it. If the file is written meanwhile it is read again.
func read(path string) ([]byte, ID, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO does not keep us waiting
	if err != nil {
		return nil, ID{}, err
	}
	defer f.Close()
	const tries = 3
	for try := 1; ; try++ {
		data, id, changed, err := readOpen(f)
		if err != nil {
			return nil, ID{}, err
		}
		if !changed || try == tries { // the last is marked as not settled, by its age
			id.Hash = Sum(data)
			return data, id, nil
		}
	}
}

func readOpen(f *os.File) (data []byte, id ID, changed bool, err error) {
	now := time.Now()
	before, err := f.Stat()
	if err != nil {
		return nil, ID{}, false, err
	}
	if !before.Mode().IsRegular() {
		return nil, ID{}, false, &fs.PathError{Op: "read", Path: f.Name(), Err: fmt.Errorf("it is not a regular file (%s)", before.Mode().Type())}
	}
	if before.Size() > peer.MaxSize {
		return nil, ID{}, false, &fs.PathError{Op: "read", Path: f.Name(), Err: fmt.Errorf("it has %d bytes, more than %d: split the network", before.Size(), peer.MaxSize)}
	}
	data, err = io.ReadAll(io.NewSectionReader(f, 0, peer.MaxSize+1))
	if err != nil {
		return nil, ID{}, false, err
	}
	after, err := f.Stat()
	if err != nil {
		return nil, ID{}, false, err
	}
	id = identify(after, now)
	return data, id, id.times() != identify(before, now).times() || int64(len(data)) != id.Size, nil
}

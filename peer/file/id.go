package file

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// settled is the age from which the times of a file tell it from any later state: no file system in use counts time in
// longer steps.
const settled = time.Second

// ID is the identity of what a file holds: a stamp that is kept, in JSON if need be, and compared later. The zero ID is
// that of no file.
type ID struct {
	Dev   uint64 `json:"dev"`
	Ino   uint64 `json:"ino"`
	Size  int64  `json:"size"`  // bytes
	Mtime int64  `json:"mtime"` // of the content; nanoseconds since 1970, as is Ctime
	Ctime int64  `json:"ctime"` // of the inode
	Hash  Hash   `json:"hash"`

	// Settled says that the file was a second old when it was identified, so that a later change shows in its times. A
	// younger one may be changed once more within the same tick of the clock.
	Settled bool `json:"settled"`
}

// Hash is the SHA-256 of a content. Its text is hexadecimal.
type Hash [sha256.Size]byte

// Sum is the hash of a content.
func Sum(data []byte) Hash { return sha256.Sum256(data) }

// String is the text.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText is the text.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads the text.
func (h *Hash) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err != nil || len(b) != len(h) {
		return fmt.Errorf("hash %.80q: want %d hexadecimal digits", text, 2*len(h))
	}
	*h = Hash(b)
	return nil
}

// Identify reads a file and returns the identity of what it holds. A file that is not there is [io/fs.ErrNotExist]. It
// never waits, whatever the path names.
func Identify(path string) (ID, error) {
	_, id, err := read(path)
	if err != nil {
		return ID{}, fmt.Errorf("identify peers file: %w", err)
	}
	return id, nil
}

// Same reports whether the file at path holds what id was made of, and returns its identity now. That costs one stat(2)
// if device, inode, size and times are the same and can be trusted; else the file is read and its hash decides. Where
// now is not id though the content is the same, a caller that keeps now saves the next one the reading.
//
// A file that is gone is [io/fs.ErrNotExist].
func (id ID) Same(path string) (now ID, same bool, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return ID{}, false, fmt.Errorf("identify peers file: %w", err)
	}
	if id.Settled && identify(info, time.Now()).times() == id.times() {
		return id, true, nil
	}
	if now, err = Identify(path); err != nil {
		return ID{}, false, err
	}
	return now, now.Hash == id.Hash, nil
}

// times is all of an identity that stat(2) tells.
func (id ID) times() ID {
	id.Hash, id.Settled = Hash{}, false
	return id
}

// identify makes an identity without its hash. A time in the future is not trusted either.
func identify(info fs.FileInfo, now time.Time) ID {
	id := stat(info)
	last := max(id.Mtime, id.Ctime)
	id.Settled = id.Ctime != 0 && now.Sub(time.Unix(0, last)) >= settled
	return id
}

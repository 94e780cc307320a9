//go:build linux

package overlay

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/kernel/wg"
	"github.com/cniblocks/cniblocks/peer"
)

// DefaultKeyDir is where private keys are kept.
const DefaultKeyDir = "/var/lib/cniblocks"

// privateKey is a key of Curve25519 (RFC 7748).
type privateKey [32]byte

// String keeps the key out of errors and logs.
func (privateKey) String() string { return "(private key)" }

// GoString is [privateKey.String].
func (k privateKey) GoString() string { return k.String() }

func (k privateKey) public() peer.PublicKey {
	return wg.PublicKey(k)
}

// PublicKey is the public key of this node in a network. The private key is made if there is none.
func (w WireGuard) PublicKey(network string) (peer.PublicKey, error) {
	if !plainName(network) || network == "" || network == "." || network == ".." {
		return peer.PublicKey{}, fmt.Errorf("name of the network %q: want letters, digits, dot, dash and underscore", network)
	}
	k, err := loadKey(w.KeyDir, network)
	if err != nil {
		return peer.PublicKey{}, err
	}
	return k.public(), nil
}

func keyFile(dir, network string) string {
	if dir == "" {
		dir = DefaultKeyDir
	}
	return filepath.Join(dir, network, "wireguard.key")
}

// loadKey reads the key, in the form of wg(8), or makes it. Two processes that make it at once end with the same one.
func loadKey(dir, network string) (privateKey, error) {
	path := keyFile(dir, network)
	k, err := readKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return k, err
	}
	if err := makeKey(path); err != nil && !errors.Is(err, fs.ErrExist) {
		return k, err
	}
	return readKey(path)
}

func readKey(path string) (k privateKey, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return k, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return k, err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return k, fmt.Errorf("%s: others may read it (mode %#o): 'chmod 600' it, or remove it to get a new key", path, st.Mode().Perm())
	}
	if owner, ok := st.Sys().(*syscall.Stat_t); ok && owner.Uid != 0 && int(owner.Uid) != os.Geteuid() {
		return k, fmt.Errorf("%s: belongs to user %d, who knows the key: remove it to get a new key", path, owner.Uid)
	}
	if !st.Mode().IsRegular() {
		return k, fmt.Errorf("%s: is not a regular file (%s): remove it to get a new key", path, st.Mode().Type())
	}
	var b [128]byte
	n, err := f.Read(b[:])
	if err != nil {
		return k, fmt.Errorf("%s: %w", path, err)
	}
	raw, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(b[:n])))
	if err != nil || len(raw) != len(k) {
		return k, fmt.Errorf("%s: is no WireGuard key: want 32 bytes in base64, as 'wg genkey' prints them; remove it to get a new one", path)
	}
	return privateKey(raw), nil
}

// nameless makes a file of which a kill leaves nothing, where the file system can do that, and the name to link it by.
func nameless(dir string) (f *os.File, name string, err error) {
	if f, err = os.OpenFile(dir, unix.O_TMPFILE|os.O_WRONLY, 0o600); err == nil {
		return f, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), nil
	}
	if f, err = os.CreateTemp(dir, ".wireguard.key-*"); err != nil { // mode 0600
		return nil, "", err
	}
	return f, f.Name(), nil
}

// draw asks the kernel for random bytes, and waits until it has some.
func draw(b []byte) error {
	for len(b) > 0 {
		n, err := unix.Getrandom(b, 0)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("getrandom: %w", err)
		}
		b = b[max(n, 0):]
	}
	return nil
}

// makeKey writes a new key so that it is there whole or not at all, after a loss of power too.
func makeKey(path string) error {
	var k privateKey
	if err := draw(k[:]); err != nil {
		return err
	}
	k[0] &= 248 // RFC 7748, section 5
	k[31] = k[31]&127 | 64
	f, name, err := nameless(filepath.Dir(path))
	if err != nil {
		return err
	}
	_, err = f.WriteString(base64.StdEncoding.EncodeToString(k[:]) + "\n")
	if err = errors.Join(err, f.Sync()); err == nil {
		err = unix.Linkat(unix.AT_FDCWD, name, unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
	}
	if !strings.HasPrefix(name, "/proc/") {
		err = errors.Join(err, os.Remove(name))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

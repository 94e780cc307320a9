package flannel

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// maxSubnetEnv bounds the file; flannel's own has some 200 bytes.
const maxSubnetEnv = 64 << 10

// ReadSubnetEnv reads the file at a path, as [ParseSubnetEnv] does. A file that is not there is [io/fs.ErrNotExist]; every
// error names the path.
func ReadSubnetEnv(path string) (SubnetEnv, error) {
	f, err := os.Open(path)
	if err != nil {
		return SubnetEnv{}, fmt.Errorf("subnet.env: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSubnetEnv+1))
	if err != nil {
		return SubnetEnv{}, fmt.Errorf("subnet.env: %w", err)
	}
	if len(data) > maxSubnetEnv {
		return SubnetEnv{}, fmt.Errorf("%s: it has more than %d bytes; want a subnet.env", path, maxSubnetEnv)
	}
	e, err := ParseSubnetEnv(data)
	if err != nil {
		return e, fmt.Errorf("%s: %w", path, err)
	}
	return e, nil
}

// WriteSubnetEnv replaces the file in one step, and makes its directory: whoever reads it sees the old contents or the new
// ones. It keeps its permissions; a new one has 0644. What nobody could read is refused, see [SubnetEnv.Validate].
func WriteSubnetEnv(path string, e SubnetEnv) error {
	if err := e.Validate(); err != nil {
		return fmt.Errorf("%s is left as it is: %w", path, err)
	}
	dir, name := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("subnet.env: %w", err)
	}
	mode := fs.FileMode(0o644)
	if st, err := os.Stat(path); err == nil {
		mode = st.Mode().Perm()
	}
	f, err := os.CreateTemp(dir, "."+name+"-*")
	if err != nil {
		return fmt.Errorf("subnet.env: %w", err)
	}
	_, err = f.Write(e.Format())
	err = errors.Join(err, f.Chmod(mode), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("subnet.env: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}

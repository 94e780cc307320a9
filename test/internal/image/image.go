// Package image makes container images of static programs, busybox above all, so that no registry is needed.
package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
)

// Busybox finds a busybox that needs no libraries.
func Busybox() (path string, err error) {
	path, err = exec.LookPath("busybox")
	if err != nil {
		return "", err
	}
	f, err := elf.Open(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return "", fmt.Errorf("%s is not static", path)
		}
	}
	return path, nil
}

// Write writes an OCI image archive, for `ctr images import` and `podman load`, to the named file. The image holds
// busybox with its applets; it waits until it is told to stop, unless a container has a command of its own.
func Write(file, name, busybox string) error {
	layer, err := layerOf(busybox)
	if err != nil {
		return fmt.Errorf("image %s: %w", name, err)
	}
	return pack(file, name, []string{"/wait"}, layer)
}

// WritePrograms writes an archive of an image that holds nothing but programs, under names in its root. programs are their
// paths here; entrypoint is the name of the one that a container runs by itself.
func WritePrograms(file, name, entrypoint string, programs map[string]string) error {
	var a archive
	for _, to := range slices.Sorted(maps.Keys(programs)) {
		b, err := os.ReadFile(programs[to])
		if err != nil {
			return fmt.Errorf("image %s: %w", name, err)
		}
		a.file(to, 0o755, b)
	}
	layer, err := a.end()
	if err != nil {
		return fmt.Errorf("image %s: %w", name, err)
	}
	return pack(file, name, []string{"/" + entrypoint}, layer)
}

// pack writes the archive of an image with one layer.
func pack(file, name string, entrypoint []string, layer []byte) error {
	var packed bytes.Buffer
	zip, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if _, err := zip.Write(layer); err != nil {
		return err
	}
	if err := zip.Close(); err != nil {
		return err
	}
	config := encode(object{
		"architecture": runtime.GOARCH, "os": "linux", "created": "1970-01-01T00:00:00Z",
		"config": object{"Env": []string{"PATH=/bin"}, "Entrypoint": entrypoint},
		"rootfs": object{"type": "layers", "diff_ids": []string{digest(layer)}},
	})
	manifest := encode(object{
		"schemaVersion": 2, "mediaType": manifestType,
		"config": descriptor("application/vnd.oci.image.config.v1+json", config),
		"layers": []object{descriptor("application/vnd.oci.image.layer.v1.tar+gzip", packed.Bytes())},
	})
	entry := descriptor(manifestType, manifest)
	entry["annotations"] = object{"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}

	var out archive
	out.file("oci-layout", 0o644, encode(object{"imageLayoutVersion": "1.0.0"}))
	out.file("index.json", 0o644, encode(object{"schemaVersion": 2, "manifests": []object{entry}}))
	for _, blob := range [][]byte{config, manifest, packed.Bytes()} {
		out.file("blobs/sha256/"+strings.TrimPrefix(digest(blob), "sha256:"), 0o644, blob)
	}
	b, err := out.end()
	if err != nil {
		return fmt.Errorf("image %s: %w", name, err)
	}
	return os.WriteFile(file, b, 0o644)
}

const manifestType = "application/vnd.oci.image.manifest.v1+json"

// layerOf is the file system: busybox, its applets, and what a container expects to find.
func layerOf(busybox string) ([]byte, error) {
	program, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --list: %w", busybox, err)
	}
	var a archive
	for _, dir := range []string{"bin", "dev", "etc", "proc", "root", "sys", "tmp", "var", "var/run", "www"} {
		a.add(tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	}
	a.file("bin/busybox", 0o755, program)
	for applet := range strings.FieldsSeq(string(applets)) {
		if applet != "busybox" {
			a.add(tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, nil)
		}
	}
	a.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\n"))
	a.file("etc/group", 0o644, []byte("root:x:0:\n"))
	a.file("www/index.html", 0o644, []byte("hello\n"))
	a.file("wait", 0o755, []byte("#!/bin/sh\ntrap 'exit 0' TERM INT\nwhile :; do sleep 86400 & wait $!; done\n"))
	return a.end()
}

// archive is a tar archive in memory. The first error waits for the end.
type archive struct {
	buf bytes.Buffer
	w   *tar.Writer
	err error
}

func (a *archive) file(name string, mode int64, data []byte) {
	a.add(tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode}, data)
}

func (a *archive) add(h tar.Header, data []byte) {
	if a.w == nil {
		a.w = tar.NewWriter(&a.buf)
	}
	h.Size = int64(len(data))
	if a.err == nil {
		a.err = a.w.WriteHeader(&h)
	}
	if a.err == nil {
		_, a.err = a.w.Write(data)
	}
}

func (a *archive) end() ([]byte, error) {
	if a.err == nil {
		a.err = a.w.Close()
	}
	return a.buf.Bytes(), a.err
}

type object map[string]any

func encode(o object) []byte {
	b, err := json.Marshal(o)
	if err != nil {
		panic(err) // strings and numbers only
	}
	return b
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func descriptor(mediaType string, b []byte) object {
	return object{"mediaType": mediaType, "digest": digest(b), "size": len(b)}
}

package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/cniblocks/cniblocks/internal/base/lazyjson"
)

// Delegates are the plugins that are linked into this program, by type.
type Delegates map[string]Plugin

// maxDepth bounds how many plugins call one another; a longer chain is a configuration that never ends.
const maxDepth = 8

// Delegate finds the plugin of a type (specification, section 4). One that is linked in, under its own or another name, see
// [Request.Kind], runs in this process, unless CNI_PATH has another program of that name, and not a link to this one or a
// copy: an administrator's own binary wins. What is in neither place is an [ErrNotAvailable] that says where was looked.
func (r *Request) Delegate(typ string) (Plugin, error) {
	if !validType(typ) {
		return nil, Errorf(ErrConfig, "netconf: key \"type\" of a delegate is %q; want the file name of a plugin", clip(typ))
	}
	name := r.Kind(typ)
	linked := inProcess{r.Delegates[name], typ, name}
	if linked.p != nil && r.depth >= maxDepth {
		return nil, Errorf(ErrConfig, "delegate %q: more than %d plugins call one another", typ, maxDepth)
	}
	path, st := r.find(typ)
	switch {
	case path != "" && (linked.p == nil || !isSelf(path, st)):
		return executable(path), nil
	case linked.p != nil:
		return linked, nil
	}
	for _, dir := range r.Path {
		if st, err := os.Stat(filepath.Join(dir, typ)); err == nil {
			return nil, Errorf(ErrNotAvailable, "delegate %q: %s is not a program that may be executed (mode %s): make it one with 'chmod +x', or install the plugin anew",
				typ, filepath.Join(dir, typ), st.Mode())
		}
	}
	return nil, Errorf(ErrNotAvailable, "delegate %q is neither linked in nor in CNI_PATH (%s): install it there or correct the key \"type\"",
		typ, strings.Join(r.Path, ", "))
}

func validType(typ string) bool {
	return typ != "" && typ != "." && typ != ".." && !strings.ContainsAny(typ, "/\x00") && len(typ) <= 255
}

// HandDown completes the configuration of a delegate that the netconf states as an object, such as the value of a key
// "delegate": it gets what every delegate gets of the netconf around it, which are the name, the version, the prevResult,
// what the runtime passes in args, runtimeConfig and cni.dev/ keys, and dns where it states none itself; a version of its own does not count. [Request.With]
// makes the request of it.
func (r *Request) HandDown(delegate map[string]json.RawMessage) error {
	if delegate == nil {
		return Errorf(ErrConfig, `netconf: key "delegate" is missing; want an object with the "type" of a plugin`)
	}
	var outer map[string]json.RawMessage
	if err := lazyjson.Unmarshal(r.Config, &outer); err != nil {
		return decodeError(err)
	}
	delete(delegate, "cniVersion")
	for key, value := range outer {
		switch key {
		case "name", "cniVersion", "runtimeConfig", "args":
			delegate[key] = value
		case "dns":
			if delegate[key] == nil {
				delegate[key] = value
			}
		default:
			if Momentary(key) {
				delegate[key] = value
			}
		}
	}
	return nil
}

// Momentary reports whether a key of a netconf belongs to one call and not to the attachment.
func Momentary(key string) bool { return key == "prevResult" || strings.HasPrefix(key, "cni.dev/") }

// find looks for the program of a type in CNI_PATH; without one path is "".
func (r *Request) find(typ string) (path string, st os.FileInfo) {
	for _, dir := range r.Path {
		path = filepath.Join(dir, typ)
		st, err := os.Stat(path)
		if err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return path, st
		}
	}
	return "", nil
}

// isSelf reports whether the file at path is this program's own, or a copy of the same size and build.
func isSelf(path string, st os.FileInfo) bool {
	own, err := selfInfo()
	switch {
	case err != nil:
		return false
	case os.SameFile(st, own):
		return true
	case st.Size() != own.Size():
		return false
	}
	mine, err := selfHead()
	if err != nil || !bytes.Contains(mine, buildID) {
		return false
	}
	theirs, err := head(path)
	return err == nil && bytes.Equal(theirs, mine)
}

// buildID begins the ELF note with the hash of the whole program that Go's linker leaves in its first page: the note's
// type 4, and the name of its owner.
var buildID = []byte("\x04\x00\x00\x00Go\x00\x00")

const self = "/proc/self/exe"

// selfInfo and selfHead are this program's own file.
var (
	selfInfo = sync.OnceValues(func() (os.FileInfo, error) { return os.Stat(self) })
	selfHead = sync.OnceValues(func() ([]byte, error) { return head(self) })
)

// head is a file's first page.
func head(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	page := make([]byte, 4096)
	_, err = io.ReadFull(f, page)
	return page, err
}

// Linked reports whether a delegate runs in this process.
func Linked(delegate Plugin) bool {
	_, ok := delegate.(inProcess)
	return ok
}

// IPAM finds the plugin that the key "ipam" names; nil if it names none. It gets the whole configuration (specification,
// section 4).
func (r *Request) IPAM() (Plugin, error) {
	var c struct {
		IPAM struct {
			Type string `json:"type"`
		} `json:"ipam"`
	}
	if err := lazyjson.Unmarshal(r.Config, &c); err != nil {
		return nil, decodeError(err)
	}
	if c.IPAM.Type == "" {
		return nil, nil
	}
	return r.Delegate(c.IPAM.Type)
}

// inProcess keeps a linked-in plugin to what an executed one would get and give: its own copy of the request, and a
// result in the version of the configuration.
type inProcess struct {
	p         Plugin
	typ, name string // what the configuration calls it, and its own name
}

func (d inProcess) request(r *Request, v Verb) *Request {
	if r.warnings == nil {
		r.warnings = &[]string{}
	}
	c := *r
	c.Verb = v
	c.depth++
	if c.Type == d.typ {
		c.Type = d.name
	}
	return &c
}

func (d inProcess) Add(ctx context.Context, r *Request) (*Result, error) {
	res, err := d.p.Add(ctx, d.request(r, ADD))
	if err != nil {
		return nil, err
	}
	return res.As(r.Version), nil
}

func (d inProcess) Del(ctx context.Context, r *Request) error { return d.p.Del(ctx, d.request(r, DEL)) }

func (d inProcess) Check(ctx context.Context, r *Request) error {
	return d.p.Check(ctx, d.request(r, CHECK))
}

func (d inProcess) Status(ctx context.Context, r *Request) error {
	return d.p.Status(ctx, d.request(r, STATUS))
}

func (d inProcess) GC(ctx context.Context, r *Request) error { return d.p.GC(ctx, d.request(r, GC)) }

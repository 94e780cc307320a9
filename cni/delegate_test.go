package cni_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
)

// script puts an executable into dir.
func script(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	// A child that is being started would keep the file open for writing for a moment, and it could not be executed then.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700))
	return path
}

const withIPAM = `{"cniVersion": "1.1.0", "name": "net", "type": "fake", "ipam": {"type": "leases"}}`

// answering is a plugin that says who it is.
func answering(name string) fake {
	return fake{add: func(context.Context, *cni.Request) (*cni.Result, error) {
		return &cni.Result{Interfaces: []cni.Interface{{Name: name}}}, nil
	}}
}

func who(t *testing.T, r *cni.Request) string {
	t.Helper()
	p, err := r.IPAM()
	require.NoError(t, err)
	res, err := p.Add(t.Context(), r)
	require.NoError(t, err)
	return res.Interfaces[0].Name
}

func TestALinkedInDelegateRunsHereUnlessTheAdministratorsOtherBinaryStandsInCNIPATH(t *testing.T) {
	t.Parallel()
	const other = `echo '{"cniVersion": "1.1.0", "interfaces": [{"name": "other"}]}'`
	linked := cni.Delegates{"leases": answering("linked")}
	self, err := os.Readlink("/proc/self/exe")
	require.NoError(t, err)

	empty, same, symlink, theirs, useless := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	require.NoError(t, os.Symlink(self, filepath.Join(symlink, "leases")))
	if os.Link(self, filepath.Join(same, "leases")) != nil { // on another file system
		require.NoError(t, os.Symlink(self, filepath.Join(same, "leases")))
	}
	copied := t.TempDir()
	program, err := os.ReadFile(self)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(copied, "leases"), program, 0o755))
	alike := t.TempDir()
	script(t, alike, "leases", other+"\nexit\n")
	require.NoError(t, os.Truncate(filepath.Join(alike, "leases"), int64(len(program))))
	script(t, theirs, "leases", other)
	require.NoError(t, os.WriteFile(filepath.Join(useless, "leases"), []byte("x"), 0o600))
	isDir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(isDir, "leases"), 0o700))

	for name, c := range map[string]struct {
		path []string
		want string
	}{
		"nowhere":                       {[]string{empty}, "linked"},
		"a directory that is not there": {[]string{"/nowhere"}, "linked"},
		"this very file":                {[]string{same}, "linked"},
		"a link to this very file":      {[]string{symlink}, "linked"},
		"a copy of it":                  {[]string{copied}, "linked"},
		"another file":                  {[]string{theirs}, "other"},
		"another file of the same size": {[]string{alike}, "other"},
		"another file, in the second":   {[]string{empty, theirs}, "other"},
		"this file before another":      {[]string{same, theirs}, "linked"},
		"another file before this":      {[]string{theirs, same}, "other"},
		"not executable":                {[]string{useless}, "linked"},
		"not executable, then another":  {[]string{useless, theirs}, "other"},
		"a directory of that name":      {[]string{isDir}, "linked"},
	} {
		r := request(t, cni.ADD, withIPAM)
		r.Path, r.Delegates = c.path, linked
		require.Equal(t, c.want, who(t, r), name)
	}

	r := request(t, cni.ADD, withIPAM)
	r.Path = []string{empty, theirs}
	require.Equal(t, "other", who(t, r), "not linked in")
	r.Path = []string{"/first", "/second"}
	_, err = r.IPAM()
	require.Equal(t, cni.ErrNotAvailable, cni.CodeOf(err))
	require.EqualError(t, err, `delegate "leases" is neither linked in nor in CNI_PATH (/first, /second): install it there or correct the key "type"`)
}

func TestADelegatesTypeIsAFileName(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script(t, dir, "evil", "exit 0")
	r := request(t, cni.ADD, withIPAM)
	r.Path = []string{filepath.Join(dir, "sub")}
	for _, typ := range []string{"", ".", "..", "../evil", "a/b", "/bin/sh", "a\x00b", strings.Repeat("t", 256)} {
		_, err := r.Delegate(typ)
		require.Equal(t, cni.ErrConfig, cni.CodeOf(err), typ)
		require.ErrorContains(t, err, "want the file name of a plugin")
	}
}

func TestNoIPAMIsNoPluginAndNoError(t *testing.T) {
	t.Parallel()
	for _, conf := range []string{netconf, `{"cniVersion": "1.0.0", "name": "net", "ipam": {}}`, `{"cniVersion": "1.0.0", "name": "net", "ipam": null}`} {
		p, err := request(t, cni.ADD, conf).IPAM()
		require.NoError(t, err)
		require.Nil(t, p)
	}
	_, err := request(t, cni.ADD, `{"cniVersion": "1.0.0", "name": "net", "ipam": {"type": 7}}`).IPAM()
	require.ErrorContains(t, err, `key "ipam.type" is a JSON number; want a string`)
}

func TestADelegateInTheProcessGetsACopyAndGivesWhatTheVersionCanSay(t *testing.T) {
	t.Parallel()
	var verbs []cni.Verb
	note := func(_ context.Context, r *cni.Request) error {
		verbs = append(verbs, r.Verb)
		r.Network, r.IfName = "changed", "changed"
		r.Warn("from the delegate")
		return nil
	}
	r := request(t, cni.DEL, `{"cniVersion": "0.3.1", "name": "net", "ipam": {"type": "leases"}}`)
	r.Delegates = cni.Delegates{"leases": fake{del: note, check: note, status: note, gc: note,
		add: func(ctx context.Context, r *cni.Request) (*cni.Result, error) { return full(), note(ctx, r) }}}
	p, err := r.IPAM()
	require.NoError(t, err)
	res, err := p.Add(t.Context(), r)
	require.NoError(t, err)
	require.Equal(t, full().As("0.3.1"), res)
	for _, call := range []func(context.Context, *cni.Request) error{p.Del, p.Check, p.Status, p.GC} {
		require.NoError(t, call(t.Context(), r))
	}
	require.Equal(t, []cni.Verb{cni.ADD, cni.DEL, cni.CHECK, cni.STATUS, cni.GC}, verbs)
	require.Equal(t, []any{"net", "eth0", cni.DEL}, []any{r.Network, r.IfName, r.Verb})
	require.Len(t, r.Warnings(), 5)
}

func TestPluginsThatCallEachOtherForEverAreStopped(t *testing.T) {
	t.Parallel()
	calls := 0
	again := fake{}
	again.add = func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
		calls++
		p, err := r.IPAM()
		if err != nil {
			return nil, err
		}
		return p.Add(ctx, r)
	}
	r := request(t, cni.ADD, withIPAM)
	r.Delegates = cni.Delegates{"leases": again}
	p, err := r.IPAM()
	require.NoError(t, err)
	_, err = p.Add(t.Context(), r)
	require.Equal(t, cni.ErrConfig, cni.CodeOf(err))
	require.ErrorContains(t, err, "more than 8 plugins call one another")
	require.Equal(t, 8, calls)
}

func TestADelegateUnderAnotherNameRunsHereIfItIsThisProgram(t *testing.T) {
	t.Parallel()
	self, err := os.Readlink("/proc/self/exe")
	require.NoError(t, err)
	const other = `echo '{"cniVersion": "1.1.0", "interfaces": [{"name": "other"}]}'`
	dir, bin := t.TempDir(), t.TempDir()
	program, err := os.ReadFile(self)
	require.NoError(t, err)
	for _, name := range []string{"rancher-leases", "leases.real", "leases-and-more", "nothing"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), program, 0o700))
	}
	require.NoError(t, os.Symlink(self, filepath.Join(bin, "leases")))
	for link, to := range map[string]string{"pool": filepath.Join(bin, "leases"), "pool2": "pool", "leases-link": "foreign"} {
		require.NoError(t, os.Symlink(to, filepath.Join(dir, link)))
	}
	script(t, dir, "foreign", other)
	script(t, dir, "wrapped-leases", other)
	var typ string
	linked := cni.Delegates{"and": answering("and"), "leases": fake{add: func(_ context.Context, r *cni.Request) (*cni.Result, error) {
		typ = r.Type
		return &cni.Result{Interfaces: []cni.Interface{{Name: "linked"}}}, nil
	}}}
	for name, want := range map[string]string{"rancher-leases": "linked", "leases.real": "linked", "pool": "linked", "pool2": "linked",
		"leases-link": "other", "foreign": "other", "wrapped-leases": "other"} {
		r := request(t, cni.ADD, strings.ReplaceAll(withIPAM, `"leases"`, `"`+name+`"`))
		r.Path, r.Delegates = []string{dir}, linked
		require.Equal(t, want, who(t, r), name)
		kind := map[string]string{"linked": "leases", "other": name}[want]
		require.Equal(t, kind, r.Kind(name))
		require.Equal(t, "fake", r.Type)

		d, err := r.With(cni.ADD, []byte(`{"cniVersion": "1.1.0", "name": "net", "type": "`+name+`"}`))
		require.NoError(t, err)
		p, err := d.Delegate(name)
		require.NoError(t, err)
		require.Equal(t, want == "linked", cni.Linked(p), name)
		typ = kind
		_, err = p.Add(t.Context(), d)
		require.NoError(t, err)
		require.Equal(t, kind, typ, "the delegate goes by its own name")
		require.Equal(t, name, d.Type)
	}
	r := request(t, cni.ADD, withIPAM)
	r.Path, r.Delegates = []string{dir}, linked
	for _, name := range []string{"leases-and-more", "nothing", "missing-leases", "", "../leases"} {
		require.Equal(t, name, r.Kind(name), "two names, none, no file, no type")
	}
	_, err = r.Delegate("missing-leases")
	require.Equal(t, cni.ErrNotAvailable, cni.CodeOf(err))
	r.Path = nil
	require.Equal(t, "leases", r.Kind("my-leases"), "no directory to look into")
}

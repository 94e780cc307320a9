//go:build linux

package contract_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	mostFields  = 15 // an embedded one counts as one
	mostMethods = 30
)

// large are the structs that have more, by package and name. The comment of each says why it is one.
var large = []string{
	"internal/kernel/nft.Exprs",
	"agent.Agent", "agent.Status", "attach.Pod", "cmd/cniblocks.settings", "cni.Request", "inventory.Node", "inventory.reader", "ipam.session",
	"overlay.Config", "peer/etcd.Store", "plugins/overlay.conf",
}

// structure is a struct with what counts.
type structure struct {
	fields, methods int
	comment         string
}

func TestAStructIsSmallOrItsCommentSaysWhyNot(t *testing.T) {
	t.Parallel()
	all := map[string]*structure{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case !d.IsDir():
			return nil
		case path == "../../internal/test" || slices.Contains([]string{"test", "testdata", "bin", "out"}, d.Name()) || strings.HasPrefix(d.Name(), ".") && d.Name() != "..":
			return filepath.SkipDir
		}
		files, err := filepath.Glob(filepath.Join(path, "*.go"))
		for _, name := range files {
			if !strings.HasSuffix(name, "_test.go") {
				structsOf(t, name, strings.TrimPrefix(path, "../../"), all)
			}
		}
		return err
	})
	require.NoError(t, err)
	require.Greater(t, len(all), 200, "this test does not find the structs")
	var wrong []string
	say := func(format string, a ...any) { wrong = append(wrong, fmt.Sprintf(format, a...)) }
	for name, s := range all {
		switch isLarge := s.fields > mostFields || s.methods > mostMethods; {
		case isLarge && !slices.Contains(large, name):
			say("%s has %d fields and %d methods, want at most %d and %d", name, s.fields, s.methods, mostFields, mostMethods)
		case isLarge && !strings.Contains(s.comment, "It is large since"):
			say("%s is large, and its comment does not say why: It is large since ...", name)
		case !isLarge && slices.Contains(large, name):
			say("%s is small: take it off the list", name)
		}
	}
	for _, name := range large {
		if all[name] == nil {
			say("there is no %s", name)
		}
	}
	slices.Sort(wrong)
	require.Empty(t, wrong)
}

// structsOf adds the structs of a file, and the methods of others in its package.
func structsOf(t *testing.T, path, pkg string, all map[string]*structure) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
	require.NoError(t, err)
	at := func(name string) *structure {
		name = pkg + "." + name
		if all[name] == nil {
			all[name] = &structure{}
		}
		return all[name]
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv != nil {
				at(receiver(d.Recv.List[0].Type)).methods++
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				typ, ok := spec.(*ast.TypeSpec)
				if !ok {
					continue
				}
				s := at(typ.Name.Name)
				s.comment = strings.ReplaceAll(d.Doc.Text()+typ.Doc.Text(), "\n", " ")
				if fields, ok := typ.Type.(*ast.StructType); ok {
					for _, field := range fields.Fields.List {
						s.fields += max(1, len(field.Names))
					}
				}
			}
		}
	}
}

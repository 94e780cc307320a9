//go:build linux

package contract_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNoExportedIdentifierNamesAnInternalType(t *testing.T) {
	t.Parallel()
	found := map[string]string{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if slices.Contains([]string{"cmd", "examples", "internal", "plugins", "test", "testdata", "bin", "out"}, d.Name()) || strings.HasPrefix(d.Name(), ".") && d.Name() != ".." {
			return filepath.SkipDir
		}
		files, err := filepath.Glob(filepath.Join(path, "*.go"))
		for _, name := range files {
			if !strings.HasSuffix(name, "_test.go") {
				namesInternal(t, name, found)
			}
		}
		return err
	})
	require.NoError(t, err)
	require.Empty(t, found, "exported identifiers name types of internal packages, which nobody outside can")
}

// namesInternal adds the exported declarations of a file that name a type of an internal package.
func namesInternal(t *testing.T, path string, found map[string]string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	require.NoError(t, err)
	internal := map[string]bool{} // names by which the file imports internal packages
	for _, imp := range f.Imports {
		p, err := strconv.Unquote(imp.Path.Value)
		require.NoError(t, err)
		if strings.Contains(p, "/internal/") {
			name := filepath.Base(p)
			if imp.Name != nil {
				name = imp.Name.Name
			}
			internal[name] = true
		}
	}
	look := func(name string, n ast.Node) {
		ast.Inspect(n, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.Field: // of a struct or an interface; unexported ones are nobody's business
				return len(n.Names) == 0 || slices.ContainsFunc(n.Names, func(id *ast.Ident) bool { return id.IsExported() }) || n.Type == nil
			case *ast.SelectorExpr:
				if id, ok := n.X.(*ast.Ident); ok && internal[id.Name] {
					found[name] = id.Name + "." + n.Sel.Name
				}
			}
			return true
		})
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			name := f.Name.Name + "."
			if d.Recv != nil {
				typ := receiver(d.Recv.List[0].Type)
				if !ast.IsExported(typ) {
					continue
				}
				name += typ + "."
			}
			if d.Name.IsExported() {
				// The parameters' names say nothing of whether they are seen: their types are.
				for _, list := range []*ast.FieldList{d.Type.Params, d.Type.Results} {
					if list != nil {
						for _, p := range list.List {
							look(name+d.Name.Name, p.Type)
						}
					}
				}
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					if s.Name.IsExported() {
						look(f.Name.Name+"."+s.Name.Name, s.Type)
					}
				case *ast.ValueSpec:
					if s.Type != nil && slices.ContainsFunc(s.Names, (*ast.Ident).IsExported) {
						look(f.Name.Name+"."+s.Names[0].Name, s.Type)
					}
				}
			}
		}
	}
}

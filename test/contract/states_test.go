//go:build linux

package contract_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheStatesOfTheAgentAreThoseThatAreDrawn(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/architecture.md")
	require.NoError(t, err)
	_, section, _ := strings.Cut(string(page), "## The agent")
	drawing := strings.Split(section, "```")[1]
	states := map[string]string{"phase": "", "regState": "", "carriersState": "", "firewallState": "", "turn": "", "retries": ""}
	files, err := filepath.Glob("../../agent/*.go")
	require.NoError(t, err)
	found := map[string]int{}
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		require.NoError(t, err)
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.CONST {
				continue
			}
			first, _ := g.Specs[0].(*ast.ValueSpec).Type.(*ast.Ident)
			if first == nil {
				continue
			}
			if _, ok := states[first.Name]; !ok {
				continue
			}
			for _, s := range g.Specs {
				found[first.Name]++
				name := s.(*ast.ValueSpec).Names[0].Name
				require.Regexp(t, regexp.MustCompile(`\b`+name+`\b`), drawing, "a state of %s is not drawn in docs/architecture.md", first.Name)
			}
		}
	}
	require.Len(t, found, len(states), "this test does not find the states: %v", found)
}

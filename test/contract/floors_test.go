package contract_test

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	root   = "../.."
	module = "github.com/cniblocks/cniblocks/"
	apart  = -1
)

// place is where README's picture of the house has a package, or all that a pattern means.
type place struct {
	name        string
	floor       int // 0 is the cellar
	group, rank int // on the floor: of one group, a lower rank may import a higher one
}

// house is the picture.
type house []place

var (
	floor  = regexp.MustCompile(`^(floor (\d)|cellar|apart) +`)
	remark = regexp.MustCompile(`\([^)]*\)`)
	gap    = regexp.MustCompile(` {4,}`)
)

// readHouse reads the block below the heading "The house" of a document.
func readHouse(text string) (h house, err error) {
	_, text, found := strings.Cut(text, "\n## The house\n")
	_, text, block := strings.Cut(text, "\n```\n")
	text, _, end := strings.Cut(text, "\n```\n")
	if !found || !block || !end {
		return nil, fmt.Errorf("there is no picture below a heading \"The house\"")
	}
	at, group := 0, 0
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n ")
		if m := floor.FindStringSubmatch(line); m != nil {
			line = line[len(m[0]):]
			switch m[1] {
			case "cellar":
				at = 0
			case "apart":
				at = apart
			default:
				n, _ := strconv.Atoi(m[2]) // one digit
				at = n + 1
			}
		}
		for _, g := range gap.Split(strings.TrimLeft(line, " |"), -1) {
			group++
			for rank, names := range strings.Split(remark.ReplaceAllString(g, ""), ">") {
				for _, name := range strings.Fields(names) {
					if i := slices.IndexFunc(h, func(p place) bool { return p.name == name }); i >= 0 && at != apart && h[i].floor != apart {
						return nil, fmt.Errorf("%s has two places", name)
					}
					h = append(h, place{name, at, group, rank})
				}
			}
		}
	}
	return h, nil
}

// find is the place of a package: that of its name, or else of the pattern that it matches.
func (h house) find(pkg string) (place, bool) {
	var found place
	for _, p := range h {
		if p.floor == apart && p.rank > 0 {
			continue // it says what those apart may import
		}
		if p.name == pkg {
			return p, true
		}
		if ok, _ := path.Match(p.name, pkg); ok {
			found = p
		}
	}
	return found, found.name != ""
}

// wrong says what is wrong with an import, "" is nothing.
func (h house) wrong(from, to string) string {
	a, known := h.find(from)
	b, knownToo := h.find(to)
	switch {
	case !known:
		return from + " is not in README's picture of the house"
	case !knownToo:
		return to + " is not in README's picture of the house"
	case a.floor == apart && a == b:
		return ""
	case a.floor == apart:
		if !slices.ContainsFunc(h, func(p place) bool { return p.floor == apart && p.group == a.group && p.rank > 0 && p.name == to }) {
			return fmt.Sprintf("%s, which is apart, imports %s, and README's picture does not say so", from, to)
		}
	case b.floor == apart:
		return fmt.Sprintf("%s imports %s, which is for tests", from, to)
	case a.floor == b.floor && a.group == b.group && a.rank < b.rank, a.floor > b.floor:
	default:
		return fmt.Sprintf("%s imports %s, which is not below it in README's picture of the house", from, to)
	}
	return ""
}

// imports are those of each package of the tree that is not a test and not in test/, without its tests' own.
func imports(t *testing.T) map[string]map[string]bool {
	t.Helper()
	all := map[string]map[string]bool{}
	require.NoError(t, filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if d.IsDir() {
			if b := d.Name(); rel != "." && (b == "testdata" || strings.HasPrefix(b, ".") || slices.Contains([]string{"test", "bin", "out"}, rel)) {
				return filepath.SkipDir
			}
			return err
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		pkg := filepath.Dir(rel)
		if all[pkg] == nil {
			all[pkg] = map[string]bool{}
		}
		for _, imp := range f.Imports {
			p, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				return err
			}
			all[pkg][p] = true
		}
		return nil
	}))
	return all
}

func TestAPackageImportsFromLowerFloorsOnly(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	require.NoError(t, err)
	h, err := readHouse(string(readme))
	require.NoError(t, err)
	all := imports(t)
	used := map[string]bool{}
	for _, pkg := range slices.Sorted(maps.Keys(all)) {
		p, known := h.find(pkg)
		if !known {
			t.Errorf("%s is not in README's picture of the house", pkg)
			continue
		}
		used[p.name] = true
		for imp := range all[pkg] {
			if to, ours := strings.CutPrefix(imp, module); ours {
				if wrong := h.wrong(pkg, to); wrong != "" {
					t.Error(wrong)
				}
			}
			if p.floor != apart && (imp == "testing" || strings.HasPrefix(imp, "github.com/stretchr/")) {
				t.Errorf("%s imports %s: what helps tests belongs in internal/test", pkg, imp)
			}
		}
	}
	for _, p := range h {
		if p.floor == apart && p.rank > 0 {
			require.Contains(t, all, p.name)
			continue
		}
		require.True(t, used[p.name], "README's picture of the house has %s, which is not in the tree", p.name)
	}
}

func TestThePictureOfTheHouseSaysWhichImportsAreWrong(t *testing.T) {
	t.Parallel()
	h, err := readHouse("\n## The house\nwords\n```\nfloor 2   plugins/*      a > b c > d (words > x)\n             |\nfloor 1   sub/* > sub/low    e\n          f\ncellar    g\napart     test/* > e\n```\n")
	require.NoError(t, err)
	for arrow, right := range map[string]bool{
		"a b": true, "a d": true, "c d": true, "b a": false, "b c": false, "d a": false, "a e": true, "e a": false, "plugins/x a": false,
		"plugins/x plugins/y": false, "plugins/x g": true, "sub/x sub/low": true, "sub/low sub/x": false, "sub/x sub/y": false, "f e": false,
		"a f": true, "g f": false, "x g": false, "g x": false, "a test/x": false, "test/x test/y": true, "test/x e": true, "test/x f": false,
	} {
		from, to, _ := strings.Cut(arrow, " ")
		require.Equal(t, right, h.wrong(from, to) == "", arrow)
	}
	_, err = readHouse("\n## The house\n\n```\nfloor 1   a    a\n```\n")
	require.ErrorContains(t, err, "a has two places")
	_, err = readHouse("## Another\n")
	require.Error(t, err)
}

func TestNamespacesAndLeasesDoNotBringTheStartOfThePlugins(t *testing.T) {
	t.Parallel()
	all := imports(t)
	var below func(pkg string, seen map[string]bool)
	below = func(pkg string, seen map[string]bool) {
		for imp := range all[pkg] {
			if to, ours := strings.CutPrefix(imp, module); ours && !seen[to] {
				seen[to] = true
				below(to, seen)
			}
		}
	}
	for pkg, has := range map[string]bool{"netns": false, "ipam": false, "plugins": true} {
		seen := map[string]bool{}
		below(pkg, seen)
		require.Equal(t, has, seen["internal/base/start"], pkg)
		require.True(t, seen["internal/base/wait"], "%s: the imports were not followed", pkg)
	}
}

//go:build linux

package refsuite_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/cniblocks/cniblocks/internal/test/gobuild"
	"github.com/cniblocks/cniblocks/internal/test/reference"
)

// verbs are the functions of a plugin of the reference that execute the file instead.
var verbs = map[string]string{"cmdAdd": "ADD", "cmdDel": "DEL", "cmdCheck": "CHECK", "cmdStatus": "STATUS", "cmdGC": "GC"}

// What a redirected test binary reads: the directory with the plugins, and the file that gets a line of JSON for each spec.
const (
	binEnv    = "CNIBLOCKS_REFSUITE_BIN"
	reportEnv = "CNIBLOCKS_REFSUITE_REPORT"
)

// helpers are packages of programs that the tests of a plugin build.
var helpers = map[string][]string{"portmap": {"pkg/testutils/echo/server", "pkg/testutils/echo/client"}}

// redirection is the file that is compiled into each package of tests.
const redirection = `package %s

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/onsi/ginkgo/v2"
)

var redirected struct {
	calls int
	all   bool // every spec executes the file by itself
}

func redirect(verb string) func(*skel.CmdArgs) error {
	return func(args *skel.CmdArgs) error {
		redirected.calls++
		cmd := exec.Command(filepath.Join(os.Getenv(%[2]q), %[3]q))
		for _, kv := range os.Environ() {
			if !strings.HasPrefix(kv, "CNI_") {
				cmd.Env = append(cmd.Env, kv)
			}
		}
		path := args.Path
		if path == "" {
			path = os.Getenv(%[2]q)
		}
		cmd.Env = append(cmd.Env, "CNI_NETNS_OVERRIDE=1", "CNI_COMMAND="+verb, "CNI_CONTAINERID="+args.ContainerID,
			"CNI_NETNS="+args.Netns, "CNI_IFNAME="+args.IfName, "CNI_ARGS="+args.Args, "CNI_PATH="+path)
		cmd.Stdin = bytes.NewReader(args.StdinData)
		cmd.Stderr = ginkgo.GinkgoWriter
		out, err := cmd.Output()
		if err != nil {
			var said types.Error
			if json.Unmarshal(out, &said) == nil && said.Msg != "" {
				return errors.New(said.Msg) // the details are each plugin's own
			}
			return err
		}
		_, err = os.Stdout.Write(out)
		return err
	}
}

// redirectedBuild gives the file in place of the plugin. Other programs, which only help, are built beside the tests.
func redirectedBuild(pkg string) (string, error) {
	if filepath.Base(pkg) != %[3]q {
		program, err := os.Executable()
		return program + "." + filepath.Base(pkg), err
	}
	redirected.all = true
	return filepath.Join(os.Getenv(%[2]q), %[3]q), nil
}

// redirectedPath is where specs that run a whole conflist find the plugins.
func redirectedPath(string) []string {
	redirected.calls++
	return []string{os.Getenv(%[2]q)}
}

var _ = ginkgo.BeforeEach(func() { redirected.calls = 0 })

var _ = ginkgo.ReportAfterEach(func(r ginkgo.SpecReport) {
	line, err := json.Marshal(map[string]any{"name": r.FullText(), "state": r.State.String(), "why": r.FailureMessage(),
		"at": r.FailureLocation().LineNumber, "applies": redirected.all || redirected.calls > 0})
	if err != nil {
		panic(err)
	}
	f, err := os.OpenFile(os.Getenv(%[4]q), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	if _, err = f.Write(append(line, '\n')); err != nil {
		panic(err)
	}
	if err = f.Close(); err != nil {
		panic(err)
	}
})
`

// compile builds the redirected tests of one plugin, and keeps them for the next call. pkg is the package's directory
// below the root of the module.
func compile(plugin, pkg string) (binary string, err error) {
	out, err := gobuild.Go(os.TempDir(), "mod", "download", "-json", "github.com/containernetworking/plugins@"+reference.Version)
	if err != nil {
		return "", err
	}
	var module struct{ Dir string }
	if err = json.Unmarshal(out, &module); err != nil {
		return "", err
	}
	rewritten, sum, err := rewrite(filepath.Join(module.Dir, pkg), plugin)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	release, _, _ := strings.Cut(runtime.Version(), " ")
	cache = filepath.Join(cache, "cniblocks", "refsuite-"+reference.Version, release+"-"+runtime.GOARCH)
	if err = os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	binary = filepath.Join(cache, plugin+"-"+sum)
	unlock, err := gobuild.Lock(filepath.Join(cache, ".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err = os.Stat(binary); err == nil {
		return binary, nil
	}
	tmp, err := os.MkdirTemp(cache, ".build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err = os.CopyFS(tmp, os.DirFS(module.Dir)); err != nil {
		return "", err
	}
	for name, text := range rewritten {
		file := filepath.Join(tmp, pkg, name)
		if err = errors.Join(os.RemoveAll(file), os.WriteFile(file, text, 0o600)); err != nil {
			return "", err
		}
	}
	built := filepath.Join(tmp, "suite")
	cmd := exec.Command("go", "test", "-c", "-vet=off", "-o", built, "./"+pkg)
	cmd.Dir = tmp
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GO111MODULE=on", "GOWORK=off", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go test -c %s: %w\n%s", pkg, err, out)
	}
	for _, helper := range helpers[plugin] {
		cmd := exec.Command("go", "build", "-o", binary+"."+filepath.Base(helper), "./"+helper)
		cmd.Dir, cmd.Env = tmp, append(os.Environ(), "CGO_ENABLED=0", "GO111MODULE=on", "GOWORK=off", "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("go build %s: %w\n%s", helper, err, out)
		}
	}
	return binary, os.Rename(built, binary)
}

// rewrite gives the test files of a package in which the calls are redirected, and a file of ours, by name; sum is of all.
func rewrite(dir, plugin string) (files map[string][]byte, sum string, err error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return nil, "", err
	}
	files = map[string][]byte{}
	all, pkg := sha256.New(), ""
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, "", err
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, path, text, 0)
		if err != nil {
			return nil, "", err
		}
		pkg = f.Name.Name
		files[filepath.Base(path)] = edit(set, f, text)
	}
	files["redirected_test.go"] = fmt.Appendf(nil, redirection, pkg, binEnv, plugin, reportEnv)
	for _, path := range append(paths, "redirected_test.go") {
		all.Write(files[filepath.Base(path)])
	}
	return files, hex.EncodeToString(all.Sum(nil)[:8]), nil
}

// edit replaces the functions of verbs, wherever they are named, gexec.Build where it is called, and the
// list of directories that a conflist's plugins are in.
func edit(set *token.FileSet, f *ast.File, text []byte) []byte {
	type change struct {
		from, to int
		text     string
	}
	var changes []change
	put := func(n ast.Node, text string) {
		changes = append(changes, change{set.Position(n.Pos()).Offset, set.Position(n.End()).Offset, text})
	}
	keeps := false // something else of package gexec is used
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			if fun, ok := n.Fun.(*ast.SelectorExpr); ok && fun.Sel.Name == "SplitList" {
				put(fun, "redirectedPath")
			}
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && x.Name == "gexec" {
				if n.Sel.Name == "Build" {
					put(n, "redirectedBuild")
				} else {
					keeps = true
				}
			}
			return true
		case *ast.Ident:
			if verb := verbs[n.Name]; verb != "" {
				put(n, fmt.Sprintf("redirect(%q)", verb))
			}
		}
		return true
	})
	var out bytes.Buffer
	last := 0
	for _, c := range changes {
		out.Write(text[last:c.from])
		out.WriteString(c.text)
		last = c.to
	}
	out.Write(text[last:])
	if !keeps && bytes.Contains(text, []byte("gexec.Build")) {
		out.WriteString("\nvar _ = gexec.Exit\n")
	}
	return out.Bytes()
}

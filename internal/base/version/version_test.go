package version

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheCommitIsThatOfTheCheckoutElseThatOfTheArchive(t *testing.T) {
	t.Parallel()
	const checkout, archive = "0123456789abcdef0123456789abcdef01234567", "fedcba9876543210fedcba9876543210fedcba98"
	built := []debug.BuildSetting{{Key: "vcs", Value: "git"}, {Key: "vcs.revision", Value: checkout}}
	require.Equal(t, "commit 0123456789ab", commit(built, archive))
	require.Equal(t, "commit fedcba987654", commit(nil, archive))
	require.Contains(t, commit(nil, archived), "commit unknown", "the source itself names none")
	require.Contains(t, commit(nil, ""), "commit unknown")
}

// TestAProgramThatIsBuiltFromAnArchiveOfGitNamesItsCommit is about .gitattributes as well.
func TestAProgramThatIsBuiltFromAnArchiveOfGitNamesItsCommit(t *testing.T) {
	t.Parallel()
	repo, out := t.TempDir(), t.TempDir()
	for name, from := range map[string]string{".gitattributes": "../../../.gitattributes", "internal/base/version/version.go": "version.go"} {
		text, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(repo, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(repo, name), text, 0o600))
	}
	const module = "github.com/cniblocks/cniblocks"
	program := "package main\n\nimport \"" + module + "/internal/base/version\"\n\nfunc main() { println(version.String()) }\n"
	require.NoError(t, os.WriteFile(filepath.Join(repo, "main.go"), []byte(program), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(repo, "go.mod"), []byte("module "+module+"\n\ngo 1.24\n"), 0o600))
	run := func(dir, name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GOFLAGS=", "GOWORK=off")
		text, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s %s: %s", name, args, text)
		return string(text)
	}
	run(repo, "git", "init", "-q")
	run(repo, "git", "add", ".")
	run(repo, "git", "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "-m", "a")
	head := strings.TrimSpace(run(repo, "git", "rev-parse", "HEAD"))
	archive := filepath.Join(t.TempDir(), "archive.tar")
	run(repo, "git", "archive", "-o", archive, "HEAD")
	run(out, "tar", "xf", archive)
	require.Contains(t, run(out, "go", "run", "."), "commit "+head[:12])
}

//go:build linux

package kube_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/reference"
	"github.com/cniblocks/cniblocks/test/internal/image"
)

// flannelManifest is flannel's own, as it is published, but for the version of its conflist: the plugin that can be had, see
// [reference.FlannelVersion], knows none above 0.4.0.
func flannelManifest(t *testing.T) string {
	t.Helper()
	dir, err := reference.Flannel()
	require.NoError(t, err)
	text, err := os.ReadFile(filepath.Join(dir, "kube-flannel.yml"))
	require.NoError(t, err)
	const version = `"cniVersion": "1.0.0"`
	require.Contains(t, string(text), version)
	return strings.Replace(string(text), version, `"cniVersion": "0.3.1"`, 1)
}

var imageOf = regexp.MustCompile(`image: (\S+)`)

// flannelImages are archives of the images that flannel's manifest names: one has the CNI plugin and cp, the other flanneld,
// install-conf and this machine's iptables.
func flannelImages(t *testing.T) (files []string) {
	t.Helper()
	busybox, err := image.Busybox()
	require.NoError(t, err)
	plugins, err := reference.Build("flannel")
	require.NoError(t, err)
	bin, err := reference.Flannel()
	require.NoError(t, err)
	contents := map[string]map[string]string{
		"flannel-cni-plugin": {"bin/cp": busybox, "flannel": filepath.Join(plugins, "flannel")},
		"flannel":            iptables(t),
	}
	for _, name := range []string{"flanneld", "install-conf"} {
		contents["flannel"]["opt/bin/"+name] = filepath.Join(bin, name)
	}
	dir := t.TempDir()
	for _, m := range imageOf.FindAllStringSubmatch(flannelManifest(t), -1) {
		name, _, _ := strings.Cut(filepath.Base(m[1]), ":")
		if programs := contents[name]; programs != nil {
			delete(contents, name)
			files = append(files, filepath.Join(dir, name+".tar"))
			require.NoError(t, image.WritePrograms(files[len(files)-1], m[1], "none", programs))
		}
	}
	require.Empty(t, contents, "images that the manifest does not name")
	return files
}

var library = regexp.MustCompile(`(?m)(/\S+) \(0x`)

// iptables are the files that it is made of, by their names in an image.
func iptables(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, suffix := range []string{"", "-save", "-restore"} {
			path, err := exec.LookPath(family + suffix)
			require.NoError(t, err)
			files["bin/"+family+suffix] = path
		}
	}
	list, err := exec.Command("ldd", files["bin/iptables"]).CombinedOutput()
	require.NoError(t, err, "%s", list)
	for _, m := range library.FindAllStringSubmatch(string(list), -1) {
		files[m[1][1:]] = m[1]
	}
	extensions, err := filepath.Glob("/usr/lib/*/xtables/*.so")
	require.NoError(t, err)
	require.NotEmpty(t, extensions)
	for _, path := range extensions {
		files[path[1:]] = path
	}
	return files
}

// page is docs/move-from-flannel.md; the test does what it says, in its words.
const page = "../../docs/move-from-flannel.md"

var block = regexp.MustCompile("(?ms)^```(sh|yaml)\n(.*?)^```$")

// blocks are the commands and files in a section of the page.
func blocks(t *testing.T, section string) (out []string) {
	t.Helper()
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(text), "\n## "+section+"\n")
	require.True(t, found, section)
	rest, _, _ = strings.Cut(rest, "\n## ")
	for _, m := range block.FindAllStringSubmatch(rest, -1) {
		out = append(out, m[2])
	}
	return out
}

// do runs commands for a person at the cluster, in a directory.
func (s *story) do(dir, commands string) {
	s.t.Helper()
	config, err := s.Kubeconfig("")
	require.NoError(s.t, err)
	cmd := exec.Command("sh", "-exc", commands)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "KUBECONFIG="+config, "KUBECACHEDIR="+dir, "PATH="+s.Bin+":"+os.Getenv("PATH"))
	var out []byte
	require.NoError(s.t, s.NS.Do(func() error {
		out, err = cmd.CombinedOutput()
		return err
	}), "%s", out)
	s.t.Logf("%s", out)
}

// daemonOn reports whether a DaemonSet's pod on a node is ready; there is false if it has none.
func (s *story) daemonOn(m *machine, namespace string) (ready, there bool) {
	out, err := s.Kubectl("", "-n", namespace, "get", "pods", "--field-selector", "spec.nodeName="+m.name,
		"-o", `jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{" "}{end}`)
	states := strings.Fields(out)
	return err == nil && len(states) == 1 && states[0] == "True", err != nil || len(states) > 0
}

// takesOver waits until the daemon of one namespace is alone on a node, in place of the other's.
func (s *story) takesOver(m *machine, namespace, from string) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("%s: is %s's", m.name, namespace), func() bool {
		ready, _ := s.daemonOn(m, namespace)
		_, there := s.daemonOn(m, from)
		return ready && !there
	})
}

//go:build linux

package etcd_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/test/etcdtest"
	"github.com/cniblocks/cniblocks/peer/etcd"
)

var command = regexp.MustCompile(`(?m)^etcdctl (.*)$`)

func TestTheCommandsOfTheDocumentationDoWhatItSays(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/sources/etcd.md")
	require.NoError(t, err)
	w := newWorld(t, etcdtest.New(t), "")
	w.prefix = "/coreos.com/network"
	commands := command.FindAllStringSubmatch(string(doc), -1)
	require.Len(t, commands, 7)
	for _, c := range commands {
		var args []string
		for i, part := range strings.Split(c[1], "'") {
			if i%2 == 1 {
				args = append(args, part)
				continue
			}
			args = append(args, strings.Fields(part)...)
		}
		w.s.Ctl(t, args...)
	}
	w.put("10.244.7.0-24", `{"PublicIP":"192.0.2.17"}`)
	for _, args := range [][]string{{"user", "add", "root:secret"}, {"user", "grant-role", "root", "root"}, {"auth", "enable"}} {
		w.s.Ctl(t, args...)
	}
	login := func(o *etcd.Options) { o.Prefix, o.Username, o.Password = "", "cniblocks", "PASSWORD" }
	s := w.node(login, withState(w.stateFile()))
	p, err := s.Acquire(within(t, patience), want("a", "192.0.2.17"))
	require.NoError(t, err)
	require.Equal(t, prefixes("10.244.7.0/24"), p.Pods)
	other := w.node(login, withState(w.stateFile()))
	q, err := other.Acquire(within(t, patience), want("b", "192.0.2.18"))
	require.NoError(t, err)
	require.NoError(t, other.Publish(within(t, patience), vxlan(q, 2)))
	require.Len(t, first(t, s), 1)
	_, err = s.Config(within(t, patience))
	require.NoError(t, err)
}

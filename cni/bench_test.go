package cni_test

import (
	"context"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/cni"
)

// Request, configuration and result of a plugin that does nothing else.
func BenchmarkRun(b *testing.B) {
	env := map[string]string{"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1", "CNI_IFNAME": "eth0",
		"CNI_PATH": "/opt/cni/bin"}
	getenv := func(key string) string { return env[key] }
	const conf = `{"cniVersion": "1.1.0", "name": "demo", "type": "hello", "greeting": "hi"}`
	b.ReportAllocs()
	for b.Loop() {
		require.Zero(b, cni.Run(context.Background(), hello{}, nil, getenv, strings.NewReader(conf), io.Discard, io.Discard))
	}
}

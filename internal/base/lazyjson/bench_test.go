package lazyjson

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// Package json prepares the types in the first round, which is not counted here, and in a new process is what takes the time.
func BenchmarkUnmarshal(b *testing.B) {
	data := []byte(`{"name":"pods","flag":true,"inner":{"subnet":"10.1.0.0/16","list":[[{"subnet":"10.1.0.0/16"}]]}}`)
	for name, read := range map[string]func([]byte, any) error{"lazyjson": Unmarshal, "json": json.Unmarshal} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var v outer
				require.NoError(b, read(data, &v))
			}
		})
	}
}

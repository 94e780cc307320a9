package mac_test

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cniblocks/cniblocks/internal/mac"
)

// same holds what is read and written to what package net says of six octets.
func same(t *testing.T, s string) {
	t.Helper()
	got, ok := mac.Parse(s)
	hw, err := net.ParseMAC(s)
	if len(s) == 12 && err != nil {
		return // releases of Go differ in whether digits alone are one
	}
	require.Equal(t, err == nil && len(hw) == 6, ok, "%q", s)
	if ok {
		require.Equal(t, []byte(hw), got[:], "%q", s)
		require.Equal(t, hw.String(), mac.String(got))
	}
}

var words = []string{"", "0a:58:0a:f4:01:02", "0A-58-0a-F4-01-02", "0a58.0af4.0102", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00",
	"0a:58:0a:f4:01", "0a:58:0a:f4:01:02:", "0a:58-0a:f4:01:02", "0a.58.0a.f4.01.02", "0a580af40102", "0a58:0af4:0102", "0g:58:0a:f4:01:02",
	"a:58:0a:f4:01:02", "0a:58:0a:f4:01:02:03:04", "0a58.0af4.010", "0a58-0af4-0102", "é:58:0a:f4:01:02"}

func TestAnAddressIsReadAndWrittenAsPackageNetDoesIt(t *testing.T) {
	t.Parallel()
	for _, s := range words {
		same(t, s)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range words {
		f.Add(s)
	}
	f.Fuzz(same)
}

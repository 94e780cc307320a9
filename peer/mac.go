package peer

import (
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/cniblocks/cniblocks/inet"
)

func parseMAC(s string) (m inet.MAC, wrong, remedy string) {
	m, err := inet.ParseMAC(s)
	switch {
	case errors.Is(err, inet.ErrGroup):
		return m, "is a group or the all-zero address, which no device has", "state the MAC of the node's tunnel device"
	case err != nil:
		return m, "is not a MAC address", "write six octets such as 0a:58:0a:f4:01:02"
	}
	return m, "", ""
}

// PublicKey is a WireGuard public key, a point on Curve25519 (RFC 7748). The zero value means that there is none.
type PublicKey [32]byte

// ParsePublicKey reads a key as wg(8) prints it: standard base64 with padding. The all-zero key is an error.
func ParsePublicKey(s string) (PublicKey, error) {
	k, wrong, remedy := parsePublicKey(s)
	if wrong != "" {
		return PublicKey{}, fmt.Errorf("%s %s: %s", quote(s), wrong, remedy)
	}
	return k, nil
}

func parsePublicKey(s string) (k PublicKey, wrong, remedy string) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != len(k) {
		return k, "is not a public key", `write 32 bytes in base64, 44 characters, as "wg pubkey" prints them`
	}
	if k = PublicKey(b); k == (PublicKey{}) {
		return k, "is all zero, which is nobody's public key", `make one with "wg genkey" and "wg pubkey"`
	}
	return k, "", ""
}

// String is the form of wg(8); the zero value is the empty string.
func (k PublicKey) String() string {
	if k == (PublicKey{}) {
		return ""
	}
	return base64.StdEncoding.EncodeToString(k[:])
}

// MarshalText is [PublicKey.String].
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText is [ParsePublicKey], where no text at all is the zero value.
func (k *PublicKey) UnmarshalText(text []byte) (err error) {
	if len(text) == 0 {
		*k = PublicKey{}
		return nil
	}
	*k, err = ParsePublicKey(string(text))
	return err
}

package wg

import "filippo.io/edwards25519"

// PublicKey is the public key of a private one: X25519 with the base point (RFC 7748, sections 4.1 and 6.1), in a time that
// does not depend on the key. It is computed on the birationally equivalent Edwards curve: crypto/ecdh, to which the tests
// compare it, brings curves that make a plugin larger by a tenth of a megabyte.
func PublicKey(private Key) Key {
	scalar, err := edwards25519.NewScalar().SetBytesWithClamping(private[:])
	if err != nil {
		panic(err) // of another length than 32 bytes
	}
	return Key(new(edwards25519.Point).ScalarBaseMult(scalar).BytesMontgomery())
}

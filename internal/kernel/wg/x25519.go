package wg

import "filippo.io/edwards25519/field"

// PublicKey is the public key of a private one: X25519 with the base point (RFC 7748, sections 5 and 6.1), in a time that
// does not depend on the key. crypto/ecdh, to which the tests compare it, brings curves that make a plugin larger by a tenth
// of a megabyte; a table of multiples of the base point takes longer to make than this, which a plugin does once.
func PublicKey(private Key) Key {
	const base, a24 = 9, 121665
	k := private
	k[0] &^= 7
	k[31] = k[31]&^0x80 | 0x40
	// The points n*P and (n+1)*P by their x and z, for the bits n of the key that were read.
	x2, z2 := new(field.Element).One(), new(field.Element)
	x3, z3 := new(field.Element).Mult32(x2, base), new(field.Element).One()
	var a, b, c, d, e field.Element
	last := 0
	for i := 254; i >= 0; i-- {
		bit := int(k[i/8]>>(i%8)) & 1
		x2.Swap(x3, bit^last)
		z2.Swap(z3, bit^last)
		last = bit
		a.Add(x2, z2)
		b.Subtract(x2, z2)
		c.Add(x3, z3)
		d.Subtract(x3, z3)
		d.Multiply(&d, &a)
		c.Multiply(&c, &b)
		x3.Square(x3.Add(&d, &c))
		z3.Mult32(z3.Square(z3.Subtract(&d, &c)), base)
		a.Square(&a)
		b.Square(&b)
		e.Subtract(&a, &b)
		x2.Multiply(&a, &b)
		z2.Multiply(&e, z2.Add(&a, z2.Mult32(&e, a24)))
	}
	x2.Swap(x3, last)
	z2.Swap(z3, last)
	return Key(x2.Multiply(x2, z2.Invert(z2)).Bytes())
}

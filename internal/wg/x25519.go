package wg

import (
	"encoding/binary"
	"math/bits"
)

// PublicKey is the public key of a private one: X25519 with the base point (RFC 7748, sections 4.1, 5 and 6.1), in a time
// that does not depend on the key. Package crypto/ecdh has it too, with curves that make a plugin larger by a tenth of a
// megabyte; the tests compare.
func PublicKey(private Key) Key {
	k := private
	k[0] &= 248
	k[31] = k[31]&127 | 64

	// The ladder keeps two points, x2/z2 and x3/z3, whose difference is the base point.
	x1 := fe{9}
	x2, z2, x3, z3 := fe{1}, fe{}, x1, fe{1}
	swapped := uint64(0)
	for t := 254; t >= 0; t-- {
		bit := uint64(k[t/8]>>(t%8)) & 1
		swap(swapped^bit, &x2, &x3)
		swap(swapped^bit, &z2, &z3)
		swapped = bit

		a, b := add(x2, z2), sub(x2, z2)
		aa, bb := mul(a, a), mul(b, b)
		e := sub(aa, bb)
		da, cb := mul(sub(x3, z3), a), mul(add(x3, z3), b)
		sum, difference := add(da, cb), sub(da, cb)
		x3, z3 = mul(sum, sum), mul(x1, mul(difference, difference))
		x2, z2 = mul(aa, bb), mul(e, add(aa, mul(fe{121665}, e)))
	}
	swap(swapped, &x2, &x3)
	swap(swapped, &z2, &z3)
	return mul(x2, invert(z2)).bytes()
}

// fe is an element of the field of integers modulo 2^255-19, in five digits of 51 bits, the lowest first. A digit may be
// larger by a few bits between two operations.
type fe [5]uint64

const digit = 1<<51 - 1

func add(a, b fe) fe {
	for i := range a {
		a[i] += b[i]
	}
	return a.carry()
}

// sub adds twice the modulus, so that no digit becomes negative.
func sub(a, b fe) fe {
	a[0] += 2*(digit-18) - b[0]
	for i := 1; i < 5; i++ {
		a[i] += 2*digit - b[i]
	}
	return a.carry()
}

// carry moves what is above 51 bits to the next digit; above the last one are multiples of 2^255, which is 19.
func (a fe) carry() fe {
	over := a[4] >> 51
	for i := 4; i > 0; i-- {
		a[i] = a[i]&digit + a[i-1]>>51
	}
	a[0] = a[0]&digit + 19*over
	return a
}

// wide is a sum of products.
type wide struct{ hi, lo uint64 }

func (w wide) plus(a, b uint64) wide {
	hi, lo := bits.Mul64(a, b)
	var c uint64
	w.lo, c = bits.Add64(w.lo, lo, 0)
	w.hi, _ = bits.Add64(w.hi, hi, c)
	return w
}

// above is what does not fit into a digit.
func (w wide) above() uint64 { return w.hi<<13 | w.lo>>51 }

func mul(a, b fe) fe {
	// A product whose place is 2^255 or more comes back as 19.
	x1, x2, x3, x4 := 19*a[1], 19*a[2], 19*a[3], 19*a[4]
	r0 := wide{}.plus(a[0], b[0]).plus(x1, b[4]).plus(x2, b[3]).plus(x3, b[2]).plus(x4, b[1])
	r1 := wide{}.plus(a[0], b[1]).plus(a[1], b[0]).plus(x2, b[4]).plus(x3, b[3]).plus(x4, b[2])
	r2 := wide{}.plus(a[0], b[2]).plus(a[1], b[1]).plus(a[2], b[0]).plus(x3, b[4]).plus(x4, b[3])
	r3 := wide{}.plus(a[0], b[3]).plus(a[1], b[2]).plus(a[2], b[1]).plus(a[3], b[0]).plus(x4, b[4])
	r4 := wide{}.plus(a[0], b[4]).plus(a[1], b[3]).plus(a[2], b[2]).plus(a[3], b[1]).plus(a[4], b[0])
	return fe{r0.lo&digit + 19*r4.above(), r1.lo&digit + r0.above(), r2.lo&digit + r1.above(),
		r3.lo&digit + r2.above(), r4.lo&digit + r3.above()}.carry()
}

// invert is a to the power of 2^255-21, by Fermat's little theorem. Of the exponent's bits only 2 and 4 are zero.
func invert(a fe) fe {
	r := fe{1}
	for i := 254; i >= 0; i-- {
		if r = mul(r, r); i != 2 && i != 4 {
			r = mul(r, a)
		}
	}
	return r
}

// swap exchanges a and b if bit is 1.
func swap(bit uint64, a, b *fe) {
	mask := -bit
	for i := range a {
		x := mask & (a[i] ^ b[i])
		a[i] ^= x
		b[i] ^= x
	}
}

// bytes is the number below the modulus, the lowest byte first.
func (a fe) bytes() (k Key) {
	a = a.carry().carry()
	// Whether 19 more would reach 2^255 says whether the modulus has to go off once.
	q := (a[0] + 19) >> 51
	for i := 1; i < 5; i++ {
		q = (a[i] + q) >> 51
	}
	a[0] += 19 * q
	for i := range 4 {
		a[i+1] += a[i] >> 51
		a[i] &= digit
	}
	a[4] &= digit
	for i, shift := range [4]uint{0, 13, 26, 39} {
		binary.LittleEndian.PutUint64(k[8*i:], a[i]>>shift|a[i+1]<<(51-shift))
	}
	return k
}

//! Whether a point is on its curve: y² = x³ - 3x + b over the prime field (SP 800-186 §3.2.1).
//!
//! A point that is on no curve makes a certificate or a bundle that other implementations cannot read, so it
//! is refused where it comes in. Points are public: nothing here needs constant time. The arithmetic is
//! Montgomery's, a quarter of a microsecond for P-256.

use super::Curve;

/// Whether the coordinates, which have the curve's length, are those of a point.
pub(super) fn contains(curve: Curve, x: &[u8], y: &[u8]) -> bool {
    match curve {
        Curve::P256 => P256.contains(x, y),
        Curve::P384 => P384.contains(x, y),
        Curve::P521 => P521.contains(x, y),
    }
}

const P256: Field<4> = Field::new(
    b"ffffffff00000001000000000000000000000000ffffffffffffffffffffffff",
    b"5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b",
);
const P384: Field<6> = Field::new(
    b"fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffeffffffff0000000000000000ffffffff",
    b"b3312fa7e23ee7e4988e056be3f82d19181d9c6efe8141120314088f5013875ac656398d8a2ed19d2a85c8edd3ec2aef",
);
const P521: Field<9> = Field::new(
    b"01ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    b"0051953eb9618e1c9a1f929a21a0b68540eea2da725b99b315f3b8b489918ef109e156193951ec7e937b1652c0bd3bb1bf073573df883d2c34f1ef451fd46b503f00",
);

/// A number in limbs of 64 bits, the lowest first.
type Number<const N: usize> = [u64; N];

struct Field<const N: usize> {
    prime: Number<N>,
    /// -1 / prime modulo 2^64.
    inverse: u64,
    /// The square of 2^(64 N), which takes a number into Montgomery's form.
    square: Number<N>,
    /// The curve's b, in Montgomery's form.
    b: Number<N>,
}

impl<const N: usize> Field<N> {
    const fn new(prime: &[u8], b: &[u8]) -> Self {
        let prime = from_hex(prime);
        // Newton's iteration doubles the bits that are right, from 5 on.
        let mut inverse = prime[0].wrapping_mul(3) ^ 2;
        let mut step = 0;
        while step < 4 {
            inverse = inverse.wrapping_mul(2_u64.wrapping_sub(prime[0].wrapping_mul(inverse)));
            step += 1;
        }
        let mut field = Self {
            prime,
            inverse: inverse.wrapping_neg(),
            square: [0; N],
            b: [0; N],
        };
        let mut square = [0; N];
        square[0] = 1;
        let mut bit = 0;
        while bit < 128 * N {
            square = field.add(&square, &square);
            bit += 1;
        }
        field.square = square;
        field.b = field.multiply(&from_hex(b), &square);
        field
    }

    fn contains(&self, x: &[u8], y: &[u8]) -> bool {
        let (Some(x), Some(y)) = (self.read(x), self.read(y)) else {
            return false;
        };
        let x_squared = self.multiply(&x, &x);
        let three_x = self.add(&self.add(&x, &x), &x);
        // x³ + b = y² + 3x
        self.add(&self.multiply(&x_squared, &x), &self.b) == self.add(&self.multiply(&y, &y), &three_x)
    }

    /// A big-endian number below the prime, in Montgomery's form.
    fn read(&self, bytes: &[u8]) -> Option<Number<N>> {
        let mut number = [0; N];
        for (limb, chunk) in number.iter_mut().zip(bytes.rchunks(8)) {
            *limb = chunk.iter().fold(0, |limb, byte| limb << 8 | u64::from(*byte));
        }
        let (_, below) = subtract(&number, &self.prime);
        below.then(|| self.multiply(&number, &self.square))
    }

    const fn add(&self, a: &Number<N>, b: &Number<N>) -> Number<N> {
        let mut sum = [0; N];
        let mut carry = 0;
        let mut i = 0;
        while i < N {
            (sum[i], carry) = multiply_add(0, 0, a[i], b[i], carry);
            i += 1;
        }
        self.reduce(&sum, carry)
    }

    /// a · b / 2^(64 N), for both below the prime.
    const fn multiply(&self, a: &Number<N>, b: &Number<N>) -> Number<N> {
        let mut sum = [0; N];
        let mut top = 0;
        let mut i = 0;
        while i < N {
            let mut carry = 0;
            let mut j = 0;
            while j < N {
                (sum[j], carry) = multiply_add(a[i], b[j], sum[j], carry, 0);
                j += 1;
            }
            let (high, over) = multiply_add(0, 0, top, carry, 0);
            let factor = sum[0].wrapping_mul(self.inverse);
            let (_, mut carry) = multiply_add(factor, self.prime[0], sum[0], 0, 0);
            let mut j = 1;
            while j < N {
                (sum[j - 1], carry) = multiply_add(factor, self.prime[j], sum[j], carry, 0);
                j += 1;
            }
            let (last, more) = multiply_add(0, 0, high, carry, 0);
            sum[N - 1] = last;
            top = over + more;
            i += 1;
        }
        self.reduce(&sum, top)
    }

    /// A number below twice the prime, less the prime if that is needed.
    const fn reduce(&self, number: &Number<N>, top: u64) -> Number<N> {
        let (less, below) = subtract(number, &self.prime);
        if top == 0 && below { *number } else { less }
    }
}

/// a · b + c + d + e in two limbs, the lower one first; it fits when a · b is there or only three are added.
#[expect(clippy::cast_possible_truncation, reason = "the two halves of 128 bits")]
const fn multiply_add(a: u64, b: u64, c: u64, d: u64, e: u64) -> (u64, u64) {
    let wide = a as u128 * b as u128 + c as u128 + d as u128 + e as u128;
    (wide as u64, (wide >> 64) as u64)
}

/// a - b, and whether a is below b.
const fn subtract<const N: usize>(a: &Number<N>, b: &Number<N>) -> (Number<N>, bool) {
    let mut difference = [0; N];
    let mut borrow = false;
    let mut i = 0;
    while i < N {
        let (part, first) = a[i].overflowing_sub(b[i]);
        let (part, second) = part.overflowing_sub(borrow as u64);
        difference[i] = part;
        borrow = first || second;
        i += 1;
    }
    (difference, borrow)
}

const fn from_hex<const N: usize>(hex: &[u8]) -> Number<N> {
    let mut number = [0; N];
    let mut i = 0;
    while i < hex.len() {
        let digit = hex[hex.len() - 1 - i];
        let value = if digit <= b'9' { digit - b'0' } else { digit - b'a' + 10 };
        number[i / 16] |= (value as u64) << (i % 16 * 4);
        i += 1;
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The generators (SP 800-186 §3.2.1).
    const GENERATORS: [(Curve, &str, &str); 3] = [
        (
            Curve::P256,
            "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296",
            "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
        ),
        (
            Curve::P384,
            "aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7",
            "3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f",
        ),
        (
            Curve::P521,
            "00c6858e06b70404e9cd9e3ecb662395b4429c648139053fb521f828af606b4d3dbaa14b5e77efe75928fe1dc127a2ffa8de3348b3c1856a429bf97e7e31c2e5bd66",
            "011839296a789a3bc0045c8a5fb42c7d1bd998f54449579b446817afbd17273e662c97ee72995ef42640c550b9013fad0761353c7086a272c24088be94769fd16650",
        ),
    ];

    #[test]
    fn a_generator_is_on_its_curve_and_its_neighbours_are_not() {
        for (curve, x, y) in GENERATORS {
            let (x, y) = (hex::decode(x).unwrap(), hex::decode(y).unwrap());
            assert!(contains(curve, &x, &y), "{curve:?}");
            assert!(!contains(curve, &y, &x), "{curve:?}");
            for at in 0..x.len() {
                let mut near = x.clone();
                near[at] ^= 1;
                assert!(!contains(curve, &near, &y), "{curve:?} {at}");
            }
        }
    }

    #[test]
    fn a_coordinate_beyond_the_prime_is_refused() {
        for (curve, x, y) in GENERATORS {
            let y = hex::decode(y).unwrap();
            let beyond = vec![0xff; curve.coordinate()];
            assert!(!contains(curve, &beyond, &y));
            assert!(!contains(curve, &hex::decode(x).unwrap(), &beyond));
            assert!(!contains(
                curve,
                &vec![0; curve.coordinate()],
                &vec![0; curve.coordinate()]
            ));
        }
    }
}

//! Random numbers with a seed, so that a failing run can be run again: set `IT_SEED`.

/// SplitMix64: small, and every seed is good.
#[derive(Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub(crate) const fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next().to_be_bytes()[0]).collect()
    }

    /// 128 random bits as text.
    pub(crate) fn nonce(&mut self) -> String {
        format!("{:016x}{:016x}", self.next(), self.next())
    }
}

/// The seed of this run: from `IT_SEED`, or new. Printed, so that a failure shows it.
pub(crate) fn seed(test: &str) -> u64 {
    let seed = std::env::var("IT_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        u64::try_from(now.unwrap().as_micros() & u128::from(u64::MAX)).unwrap()
    });
    println!("{test}: IT_SEED={seed}");
    seed
}

//! What the tests are made with. Every client and origin counts the octets of its own socket; nothing is taken from
//! the process under test but its records.

pub mod client;
pub mod h2;
pub mod kafka;
pub mod message;
pub mod origin;
pub mod postgres;
pub mod process;
pub mod records;
pub mod shim;
pub mod socket;
pub mod tls;

use std::time::{Duration, Instant};

/// How long anything may take before the test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Looks until there is something.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "still waiting for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Numbers that look random and are the same in every run (xorshift64*).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// Less than `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        (high % n.max(1) as u64) as usize
    }
}

/// Octets that tell their own position.
pub fn octets(n: usize) -> Vec<u8> {
    (0..n).map(|at| (at % 251) as u8).collect()
}

//! The budget of frames that cost work and carry nothing, per HTTP/2 session and second.
//!
//! The engine bounds its memory by itself; this bounds its work. The meter counts ([`Burden`]), so nothing here sees a
//! frame; the clock is the worker's coarse one, so a second is exact to one sweep.

use std::cell::Cell;

use crate::config::Limits;
use crate::meter::Burden;

const SECOND_US: i64 = 1_000_000;

/// One session's budget.
#[derive(Default)]
pub struct FloodGate {
    /// When the current second began, µs, and what had been counted by then.
    began_us: Cell<i64>,
    before: Cell<Burden>,
    seen: Cell<Burden>,
}

impl FloodGate {
    /// Whether anything was counted since the last look. Almost always not.
    pub fn has_news(&self, burden: Burden) -> bool {
        burden != self.seen.get()
    }

    /// Takes note of what has been counted; true once it is over a limit.
    pub fn is_over(&self, burden: Burden, now_us: i64, limits: &Limits) -> bool {
        if now_us - self.began_us.get() >= SECOND_US {
            self.began_us.set(now_us);
            self.before.set(self.seen.get());
        }
        self.seen.set(burden);
        let before = self.before.get();
        burden.resets - before.resets > u64::from(limits.h2_resets_per_s_max)
            || burden.control_frames - before.control_frames > u64::from(limits.h2_control_frames_per_s_max)
            || burden.continuations > limits.h2_continuations_max
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    #[test]
    fn a_second_has_its_budget_and_no_more() {
        let text = "state_dir = \"/tmp\"\n[limits]\nh2_resets_per_s_max = 10\nh2_continuations_max = 3\n\
                    [[listeners]]\nname = \"web\"\nlisten = \"127.0.0.1:1\"\nkind = \"http\"\nupstream = \"127.0.0.1:2\"\n";
        let limits = Config::parse(text, "test", Path::new("/")).unwrap().limits;
        let gate = FloodGate::default();
        let resets = |resets| Burden { resets, ..Burden::default() };
        assert!(!gate.has_news(resets(0)));
        assert!(gate.has_news(resets(10)));
        assert!(!gate.is_over(resets(10), 5 * SECOND_US, &limits));
        assert!(!gate.has_news(resets(10)));
        assert!(gate.is_over(resets(11), 6 * SECOND_US - 1, &limits), "within the second");
        let gate = FloodGate::default();
        assert!(!gate.is_over(resets(10), 5 * SECOND_US, &limits));
        assert!(!gate.is_over(resets(20), 6 * SECOND_US, &limits), "a new second");
        assert!(gate.is_over(Burden { continuations: 4, ..resets(20) }, 6 * SECOND_US, &limits));
    }
}

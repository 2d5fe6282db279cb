//! One address that can take traffic, and what is known of it.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustls_pki_types::ServerName;

use super::shared::Shared;

/// One address of a group.
pub struct Member {
    /// Where to connect.
    pub address: SocketAddr,
    /// The server as configured, `host:port`; the `origin` of records.
    pub name: Arc<str>,
    /// What to verify in TLS and to send as SNI: the upstream's own setting, else the configured host. None for plain.
    pub server_name: Option<ServerName<'static>>,
    /// Position of the server in the configuration.
    pub(super) server: usize,
    group: Weak<Shared>,
    /// Requests and tunnels begun and not ended.
    open: AtomicUsize,
    healthy: AtomicBool,
    /// What the last failed check said.
    check_failure: Mutex<String>,
    /// In a row; as many as make it rest; 0 for never.
    failures: AtomicU32,
    failures_max: u32,
    /// Times below are nanoseconds since then.
    created: Instant,
    /// 0 when it does not rest.
    rests_until_ns: AtomicU64,
}

/// One request or tunnel on a member, as long as this lives.
pub struct InFlight(Arc<Member>);

impl Deref for InFlight {
    type Target = Member;

    fn deref(&self) -> &Member {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let open = self.0.open.fetch_sub(1, Relaxed);
        assert!(open > 0, "a request ended that had not begun");
    }
}

impl Member {
    pub(super) fn new(group: &Arc<Shared>, server: usize, address: SocketAddr, healthy: bool) -> Self {
        let identity = &group.servers[server];
        Self {
            address,
            name: Arc::clone(&identity.name),
            server_name: identity.server_name.clone(),
            server,
            group: Arc::downgrade(group),
            open: AtomicUsize::new(0),
            healthy: AtomicBool::new(healthy),
            check_failure: Mutex::default(),
            failures: AtomicU32::new(0),
            failures_max: group.ejection.as_ref().map_or(0, |ejection| ejection.consecutive_failures),
            created: Instant::now(),
            rests_until_ns: AtomicU64::new(0),
        }
    }

    /// Counts a request or tunnel until the guard goes.
    #[must_use]
    pub fn started(self: &Arc<Self>) -> InFlight {
        self.open.fetch_add(1, Relaxed);
        InFlight(Arc::clone(self))
    }

    /// Requests and tunnels open now.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// The server answered.
    pub fn succeeded(&self) {
        // Reading first keeps the line shared between cores in the usual case.
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// The server could not be reached or did not answer at all. Too often in a row makes it rest.
    pub fn failed(&self) {
        self.failed_at(Instant::now());
    }

    /// Neither unhealthy nor resting.
    pub fn is_available(&self) -> bool {
        // The clock is read only for a member that rests.
        self.is_healthy() && (self.rests_until_ns.load(Relaxed) == 0 || !self.is_resting_at(Instant::now()))
    }

    /// What active checks think; true without any.
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Relaxed)
    }

    pub(super) fn failed_at(&self, now: Instant) {
        if self.failures_max == 0 || self.is_resting_at(now) {
            return;
        }
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        if failures < self.failures_max {
            return;
        }
        let Some(group) = self.group.upgrade() else {
            return;
        };
        let Some(ejection) = &group.ejection else {
            return;
        };
        group.eject(self, ejection, now);
    }

    pub(super) fn is_available_at(&self, now: Instant) -> bool {
        self.is_healthy() && !self.is_resting_at(now)
    }

    pub(super) fn is_resting_at(&self, now: Instant) -> bool {
        self.resting_until().is_some_and(|until| now < until)
    }

    /// End of a rest that has not been ended yet.
    pub(super) fn resting_until(&self) -> Option<Instant> {
        match self.rests_until_ns.load(Relaxed) {
            0 => None,
            until_ns => Some(self.created + Duration::from_nanos(until_ns)),
        }
    }

    pub(super) fn rest(&self, now: Instant, rest: Duration) {
        let until = now.saturating_duration_since(self.created).saturating_add(rest);
        self.failures.store(0, Relaxed);
        // At least 1, for 0 is no rest.
        self.rests_until_ns.store(u64::try_from(until.as_nanos()).unwrap_or(u64::MAX).max(1), Relaxed);
    }

    /// Whether a rest was over and is ended by this call.
    pub(super) fn end_rest(&self, now: Instant) -> bool {
        let until_ns = self.rests_until_ns.load(Relaxed);
        if until_ns == 0 || self.is_resting_at(now) {
            return false;
        }
        // A new rest that began in between stays.
        self.rests_until_ns.compare_exchange(until_ns, 0, Relaxed, Relaxed).is_ok()
    }

    pub(super) fn note_check_failure(&self, cause: String) {
        *self.check_failure.lock().unwrap_or_else(PoisonError::into_inner) = cause;
    }

    /// What the last failed check said, when this call changed the health.
    pub(super) fn change_health(&self, healthy: bool) -> Option<String> {
        if self.healthy.swap(healthy, Relaxed) == healthy {
            return None;
        }
        Some(self.check_failure.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

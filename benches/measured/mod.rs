//! What a benchmark here measures and prints: records per second, and per second of CPU.

use std::time::{Duration, Instant};

/// As in weir itself.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// From one moment on: the time that passed, and the CPU time of all threads of this process.
pub struct Stopwatch {
    begun: Instant,
    cpu_before: Duration,
}

impl Stopwatch {
    pub fn start() -> Self {
        Self { begun: Instant::now(), cpu_before: cpu_time() }
    }

    /// One line: what was done, how many records, how fast.
    pub fn report(&self, name: &str, records: u64) {
        let per = |time: Duration| records as f64 / time.as_secs_f64().max(0.001);
        let (wall, cpu) = (per(self.begun.elapsed()), per(cpu_time() - self.cpu_before));
        println!("{name:<34} {records:>9} records  {wall:>9.0} per s  {cpu:>9.0} per CPU s");
    }
}

fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    // Behind the name: utime and stime are the 14th and 15th field.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

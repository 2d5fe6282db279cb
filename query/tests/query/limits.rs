//! A question that asks for too much ends, with words that say what to do.

use crate::world::world;

#[test]
fn too_many_rows_too_much_memory_and_too_long_are_errors() {
    let series = "SELECT count(*) FROM generate_series(1, 100000000000)";
    let product = "SELECT count(*) FROM generate_series(1, 10000000) a CROSS JOIN generate_series(1, 10000000) b WHERE (a.value * b.value) % 7 = 3";
    let groups = "SELECT count(*) FROM (SELECT value, count(*) FROM generate_series(1, 1000000) GROUP BY value)";
    let sorted = "SELECT value FROM generate_series(1, 1000000) ORDER BY value DESC LIMIT 900000";
    let endless = "WITH RECURSIVE x AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM x) SELECT count(*) FROM x";
    let joined = "SELECT count(*) FROM requests a, requests b, requests c WHERE a.path || b.path || c.path = ''";
    let regex = "SELECT count(*) FROM requests a, requests b WHERE regexp_like(a.path || b.path, '(x+x+)+y')";
    let distinct =
        "SELECT count(*) FROM (SELECT DISTINCT path, value FROM requests CROSS JOIN generate_series(1, 1000))";
    for (args, sql, part) in [
        (["--time-s-max", "1"], endless, "longer than 1 s"),
        (["--time-s-max", "1"], joined, "longer than 1 s"),
        (["--time-s-max", "1"], regex, "longer than 1 s"),
        (
            ["--time-s-max", "60"],
            "SELECT regexp_like(path, '((a{1000}){1000}){1000}') FROM requests",
            "egular expression",
        ),
        (["--memory-bytes-max", "2000000"], "SELECT * FROM requests ORDER BY path", "memory"),
        (["--memory-bytes-max", "2000000"], "SELECT array_agg(value) FROM generate_series(1, 100000000)", "memory"),
        (["--memory-bytes-max", "2000000"], distinct, "memory"),
        (["--rows-max", "10"], "SELECT * FROM requests", "more than 10 rows"),
        (["--rows-max", "10"], "SELECT value FROM generate_series(1, 1000000000000)", "more than 10 rows"),
        (["--time-s-max", "1"], series, "longer than 1 s"),
        (["--time-s-max", "1"], product, "longer than 1 s"),
        (["--memory-bytes-max", "2000000"], groups, "memory"),
        (["--memory-bytes-max", "2000000"], sorted, "memory"),
    ] {
        let ended = world().run("query", &[&args[..], &[sql]].concat());
        assert_eq!(ended.code, Some(1), "{sql}: {}", ended.out);
        assert!(ended.err.contains(part), "{sql}: {}", ended.err);
    }
}

#[test]
fn a_function_cannot_take_more_than_the_process_may() {
    let args = ["--memory-bytes-max", "1048576", "--time-s-max", "30"];
    for sql in [
        "SELECT length(repeat('x', 200000000))",
        "SELECT length(repeat(repeat('x', 100000), 100000))",
        "SELECT lpad('x', 200000000, 'ab')",
        "SELECT array_length(range(0, 1000000000))",
        "SELECT length(string_agg(repeat('x', 1000000), '')) FROM requests",
        "SELECT replace(repeat('x', 100000), 'x', repeat('y', 100000))",
    ] {
        let ended = world().run("query", &[&args[..], &[sql]].concat());
        assert_ne!(ended.code, Some(0), "{sql}: {}", ended.out);
    }
}

#[test]
fn wrong_flags_are_named() {
    for (args, part) in [
        (&["--from", "yesterday", "SELECT 1"][..], "--from yesterday"),
        (&["--from", "2026-02-01", "--to", "2026-01-01", "SELECT 1"], "before"),
        (&["--param", "id", "SELECT 1"], "NAME=VALUE"),
    ] {
        let ended = world().run("query", args);
        assert_eq!(ended.code, Some(64), "{args:?}: {}", ended.err);
        assert!(ended.err.contains(part), "{args:?}: {}", ended.err);
    }
}

// It is waited for by asking again and again.
#[allow(clippy::zombie_processes)]
#[test]
fn an_interrupt_ends_a_question_and_is_written_down() {
    use std::io::Read;
    let world = crate::world::World::new(crate::population::Population { sessions: 10, ..crate::world::POPULATION });
    let log = world.path("access.jsonl");
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_weir-query"))
        .args(["query", "--archive"])
        .arg(world.path("archive"))
        .arg("--access-log")
        .arg(&log)
        .arg("SELECT count(*) FROM generate_series(1, 100000000000000)")
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // It has begun when it is written down, and listens for the signal when its threads are there.
    let begun = || std::fs::read_to_string(&log).is_ok_and(|log| log.contains("begun"));
    let threads = || std::fs::read_dir(format!("/proc/{}/task", child.id())).map_or(0, Iterator::count);
    while !begun() || threads() < 3 {
        std::thread::yield_now();
    }
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    let mut status = None;
    while status.is_none() {
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        std::thread::yield_now();
        status = child.try_wait().unwrap();
    }
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    if status.unwrap().code().is_some() {
        assert!(err.contains("stopped"), "{err}");
        assert!(std::fs::read_to_string(&log).unwrap().contains("\"outcome\":\"stopped\""));
    }
}

//! A table is replaced when its files change and only by one that is right, whatever is done to the files meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use weir_geoip::{Live, Outcome, Plan, Reloader, SourceState, compile};

use crate::files::{AT, Files, chain, time};

fn start(plan: &Plan, at: SystemTime) -> (Arc<Live>, Reloader) {
    let live = Arc::new(Live::new(compile(plan, at).unwrap()));
    (live.clone(), Reloader::new(plan.clone(), live))
}

fn refused(outcome: Outcome) -> String {
    match outcome {
        Outcome::Refused(error) => chain(&error),
        other => panic!("{other:?}"),
    }
}

const RANGES: &str = "[[sources]]\nname = \"a\"\nkind = \"ranges\"\npaths = [\"a.csv\"]\n";

#[test]
fn a_change_is_taken_and_a_mistake_keeps_the_old_table() {
    let files = Files::new();
    files.write("a.csv", "cidr,country\n8.0.0.0/8,US\n");
    let (live, mut reloader) = start(&files.plan(RANGES), time(AT));
    let country = || live.load().of("8.8.8.8".parse().unwrap()).country().to_owned();
    assert!(matches!(reloader.check(time(AT), false), Outcome::Unchanged));
    files.write("a.csv", "cidr,country\n8.0.0.0/8,CA\n# longer\n");
    assert!(matches!(reloader.check(time(AT), false), Outcome::Swapped { .. }));
    assert_eq!(country(), "CA");
    assert!(matches!(reloader.check(time(AT), true), Outcome::Same));

    files.write("a.csv", "cidr,country\n8.0.0.0/8,FR");
    assert!(refused(reloader.check(time(AT), false)).contains("cut short"));
    assert!(matches!(reloader.check(time(AT), false), Outcome::Unchanged), "the same files are not tried again");
    assert_eq!(country(), "CA");
    std::fs::remove_file(files.path("a.csv")).unwrap();
    assert!(refused(reloader.check(time(AT), false)).contains("cannot read"));
    assert_eq!(country(), "CA");
    let built = live.load().sources()[1].build_epoch;
    assert_eq!(reloader.ages(time(built))[0].state, SourceState::Stale);
    files.write("a.csv", "cidr,country\n8.0.0.0/8,DE\n");
    assert!(matches!(reloader.check(time(AT), false), Outcome::Swapped { .. }));
    assert_eq!(country(), "DE");
}

#[test]
fn sources_age() {
    let files = Files::new();
    files.write("a.csv", "cidr,country\n8.0.0.0/8,US\n");
    let (live, reloader) = start(&files.plan(RANGES), time(AT));
    let built = live.load().sources()[1].build_epoch;
    for (days, state) in
        [(0, SourceState::Fresh), (24, SourceState::Fresh), (25, SourceState::Stale), (30, SourceState::Expired)]
    {
        let ages = reloader.ages(time(built + days * 86_400));
        assert_eq!((ages[0].state, ages[0].age_s), (state, days as u64 * 86_400));
    }
}

#[test]
fn canaries_and_coverage_guard_a_swap() {
    let files = Files::new();
    files.write("a.csv", "cidr,country\n8.0.0.0/8,US\n9.0.0.0/8,US\n");
    files.write("accounts.csv", "9.0.0.0/9,acme\n9.128.0.0/9,other\n");
    let plan = format!(
        "accounts = \"accounts.csv\"\n{RANGES}[[canaries]]\naddress = \"8.8.8.8\"\ncountry = \"US\"\n\
         [[canaries]]\naddress = \"10.0.0.1\"\ncountry = \"\"\n[guard]\ncoverage_drop_max_percent = 10\naccounts_drop_max_percent = 50\n"
    );
    let (live, mut reloader) = start(&files.plan(&plan), time(AT));
    files.write("a.csv", "cidr,country\n8.0.0.0/8,GB\n9.0.0.0/8,US\n");
    assert_eq!(refused(reloader.check(time(AT), true)), "canary 8.8.8.8: country is \"GB\", not \"US\"");
    files.write("a.csv", "cidr,country\n8.0.0.0/8,US\n");
    let error = refused(reloader.check(time(AT), true));
    assert_eq!(error, "50 % fewer IPv4 addresses with a country than before; the guard allows 10 %");
    files.write("a.csv", "cidr,country\n8.0.0.0/8,US\n9.0.0.0/8,US\n");
    files.write("accounts.csv", "9.0.0.0/9,acme\n");
    assert!(matches!(reloader.check(time(AT), true), Outcome::Swapped { .. }), "50 % is allowed");
    files.write("accounts.csv", "9.0.0.0/32,acme\n");
    assert!(refused(reloader.check(time(AT), true)).contains("fewer IPv4 addresses with an account"));
    assert_eq!(live.load().of("9.1.1.1".parse().unwrap()).account(), "acme");
}

#[test]
fn a_date_that_passes_makes_the_table_again() {
    let files = Files::new();
    files.write("accounts.csv", "9.0.0.0/9,acme,,2026-01-01,\n");
    let plan = files.plan("accounts = \"accounts.csv\"\n[guard]\naccounts_drop_max_percent = 100");
    let new_year = 1_767_225_600;
    let (live, mut reloader) = start(&plan, time(new_year - 1));
    assert!(matches!(reloader.check(time(new_year - 1), false), Outcome::Unchanged));
    assert_eq!(live.load().of("9.1.1.1".parse().unwrap()).account(), "acme");
    assert!(matches!(reloader.check(time(new_year), false), Outcome::Swapped { .. }));
    assert_eq!(live.load().of("9.1.1.1".parse().unwrap()).account(), "");
    assert!(matches!(reloader.check(time(new_year + 1), false), Outcome::Unchanged));
}

/// Everything that can happen to a file, over and over, while others look up: every answer is of one whole version.
#[test]
fn torture_of_files_gives_no_wrong_answer() {
    const NETWORKS: u32 = 2_000;
    let files = Files::new();
    let version = |country: &str| {
        let rows: String = (0..NETWORKS)
            .map(|n| format!("{}/24,{country}\n", std::net::Ipv4Addr::from((64 << 24) + (n << 8))))
            .collect();
        format!("cidr,country\n{rows}")
    };
    let versions = [version("AA"), version("BB")];
    files.write("a.csv", &versions[0]);
    let (live, mut reloader) = start(&files.plan(RANGES), time(AT));
    let stop = AtomicBool::new(false);
    let looked_up = AtomicU64::new(0);
    let (mut swapped, mut failed) = (0, 0);
    std::thread::scope(|threads| {
        for seed in 0..2 {
            let (live, stop, looked_up) = (&live, &stop, &looked_up);
            threads.spawn(move || {
                let mut random = crate::files::Random(seed);
                while !stop.load(Ordering::Relaxed) {
                    let table = live.load();
                    let address = |n: u64| {
                        std::net::IpAddr::V4(std::net::Ipv4Addr::from(
                            (64 << 24) + (n % u64::from(NETWORKS) * 256) as u32,
                        ))
                    };
                    let first = table.of(address(0)).country().to_owned();
                    assert!(first == "AA" || first == "BB", "{first:?}");
                    for _ in 0..50 {
                        assert_eq!(table.of(address(random.next())).country(), first);
                        looked_up.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for round in 0..60 {
            let next = &versions[(round / 6 + 1) % 2];
            match round % 6 {
                0 => drop(files.write("a.csv", &next[..next.len() / 2])),
                1 => drop(files.write("a.csv", &next[..next.len() - 1])),
                2 => drop(files.write("a.csv", "")),
                3 => drop(files.write("a.csv", next.replacen(",", ";", 900))),
                4 => {
                    std::fs::rename(files.path("a.csv"), files.path("gone.csv")).unwrap();
                }
                _ => {
                    let path = files.write("new.csv", next);
                    if round % 12 == 5 {
                        std::fs::rename(path, files.path("a.csv")).unwrap();
                    } else {
                        std::fs::copy(path, files.path("a.csv")).unwrap();
                    }
                }
            }
            match reloader.check(time(AT), true) {
                Outcome::Swapped { .. } => swapped += 1,
                Outcome::Refused(_) => failed += 1,
                other => panic!("{other:?} in round {round}"),
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!((swapped, failed), (10, 50));
    assert!(looked_up.load(Ordering::Relaxed) > 1_000);
}

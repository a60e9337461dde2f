//! How fast the store on sled is, and how much memory it takes, on the disk that it is given.
//!
//! ```text
//! cargo run --release -p mintmark-server --example store_speed -- fill DIR [ENTRIES]    entries of 400 bytes
//! cargo run --release -p mintmark-server --example store_speed -- open DIR              start, list, look up
//! cargo run --release -p mintmark-server --example store_speed -- commit DIR [SECONDS]  one caller, 50 puts each
//! ```
//!
//! `fill` leaves the directory as `open` finds it after a restart; delete `DIR/index` in between to see how
//! long it takes to make the index again. Each prints the memory of its own process.

#![allow(clippy::print_stdout, reason = "a program that prints its measurements")]

use std::{path::Path, time::Duration};

use anyhow::{Context, bail};
use mintmark_runtime::{clock::Clock, metrics::Metrics};
use mintmark_server::store::{Store, Txn};

const VALUE: usize = 400;
const BATCH: u64 = 1000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (what, directory, number) = match words.as_slice() {
        [what, directory] => (*what, *directory, None),
        [what, directory, number] => (
            *what,
            *directory,
            Some(number.parse().context("a number was expected")?),
        ),
        _ => bail!("usage: store_speed fill|open|commit DIR [NUMBER]"),
    };
    let clock = Clock::system();
    let started = clock.instant();
    let store = Store::open_sled(Path::new(directory), &Metrics::new("speed"))?;
    let report = store.open_report().context("a store on disk has a report")?;
    say(
        "open",
        clock.instant() - started,
        &format!(
            "{} keys, {} replayed, rebuilt: {:?}",
            report.keys, report.replayed, report.rebuilt
        ),
    );
    match what {
        "fill" => fill(&store, &clock, number.unwrap_or(1_000_000)).await?,
        "open" => look(&store, &clock).await?,
        "commit" => commit(&store, &clock, Duration::from_secs(number.unwrap_or(10))).await?,
        _ => bail!("usage: store_speed fill|open|commit DIR [NUMBER]"),
    }
    let started = clock.instant();
    store.close().await;
    say("close", clock.instant() - started, "");
    Ok(())
}

async fn fill(store: &Store, clock: &Clock, entries: u64) -> anyhow::Result<()> {
    let started = clock.instant();
    let mut next = 0;
    while next < entries {
        let end = (next + BATCH).min(entries);
        store
            .commit((next..end).fold(Txn::new(), |txn, number| txn.put(key(number), value(number, 0))))
            .await?;
        next = end;
    }
    let took = clock.instant() - started;
    say(
        "fill",
        took,
        &format!("{entries} entries, {:.0} a second", entries as f64 / took.as_secs_f64()),
    );
    Ok(())
}

async fn look(store: &Store, clock: &Clock) -> anyhow::Result<()> {
    let started = clock.instant();
    let (mut after, mut listed) = (None, 0_u64);
    loop {
        let (_, pairs) = store.range(b"entry/", after.as_deref(), 1000).await?;
        listed += pairs.len() as u64;
        match pairs.last() {
            Some(last) if pairs.len() == 1000 => after = Some(last.key.clone()),
            _ => break,
        }
    }
    say("list", clock.instant() - started, &format!("{listed} entries"));
    let started = clock.instant();
    let looked = listed.min(100_000);
    for number in 0..looked {
        store
            .get(key(number * 7919 % listed).as_bytes())
            .await?
            .context("an entry is missing")?;
    }
    say(
        "look up",
        clock.instant() - started,
        &format!("{looked} entries in random order"),
    );
    Ok(())
}

async fn commit(store: &Store, clock: &Clock, time: Duration) -> anyhow::Result<()> {
    let keys = store.open_report().map_or(0, |report| report.keys).max(50);
    let started = clock.instant();
    let mut took = Vec::new();
    while clock.instant() - started < time {
        let round = took.len() as u64;
        let numbers = (0..50).map(|number| (round * 50 + number).wrapping_mul(7919) % keys);
        let begun = clock.instant();
        store
            .commit(numbers.fold(Txn::new(), |txn, number| txn.put(key(number), value(number, round))))
            .await?;
        took.push(clock.instant() - begun);
    }
    took.sort_unstable();
    let part = |of: usize| took.get(took.len() * of / 100).copied().unwrap_or_default();
    let rate = took.len() as f64 / time.as_secs_f64();
    say(
        "commit",
        time,
        &format!(
            "{rate:.0} a second, {:.0} puts a second, p50 {:?}, p99 {:?}",
            rate * 50.0,
            part(50),
            part(99)
        ),
    );
    Ok(())
}

/// A key whose order is not that of its number.
fn key(number: u64) -> String {
    format!("entry/{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn value(number: u64, round: u64) -> Vec<u8> {
    let seed = number.wrapping_mul(31).wrapping_add(round).to_le_bytes();
    seed.iter().copied().cycle().take(VALUE).collect()
}

fn say(what: &str, took: Duration, more: &str) {
    let memory = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = memory.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let (now, most) = (field("VmRSS").unwrap_or(0) >> 10, field("VmHWM").unwrap_or(0) >> 10);
    println!("{what:8} {took:>10.3?}   {now:4} MiB, at most {most:4} MiB   {more}");
}

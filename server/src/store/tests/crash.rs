//! Killed at any moment.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use rand::{Rng, SeedableRng};

use super::*;

/// Where the child finds its store.
const DIRECTORY: &str = "MINTMARK_TEST_STORE";
const ROUNDS: u64 = 20;

/// Not a test of its own: what the next one starts as another process, and kills.
#[test]
fn writer_that_is_killed() {
    let Ok(directory) = env::var(DIRECTORY) else { return };
    run(async {
        let settings = Settings {
            snapshot_after: 256 << 10,
            ..Settings::default()
        };
        let local = Local::open(
            Path::new(&directory),
            settings,
            Retention::default(),
            StoreMetrics::unread(),
        )
        .unwrap();
        let rebuilt = local.report().unwrap().rebuilt.is_some();
        let store = Store {
            engine: Arc::new(local),
        };
        say(&format!("open {} {rebuilt}", store.revision()));
        let write = |store: Store, writer: u64| async move {
            for number in 0.. {
                // Puts that are new, puts again, and deletes; the key says the revision it must have.
                let txn = Txn::new()
                    .put(format!("w/{writer}/{}", number % 50), value(number))
                    .put(format!("last/{writer}"), format!("{number}"))
                    .delete(format!("w/{writer}/{}", (number + 25) % 50));
                let revision = store.commit(txn).await.unwrap();
                say(&format!("done {revision} {writer} {number}"));
            }
        };
        let writers = (0..8).map(|writer| tokio::spawn(write(store.clone(), writer)));
        futures::future::join_all(writers).await;
    });
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n@{line}").and_then(|()| out.flush()).unwrap();
}

#[test]
fn every_acknowledged_write_is_there_after_kill_9_and_revisions_go_on_without_gap_or_repeat() {
    let place = Place::new();
    let mut random = rand::rngs::StdRng::seed_from_u64(20_241_124);
    let (mut acknowledged, mut rebuilds) = (0, 0);
    for round in 0..ROUNDS {
        let mut child = Command::new(env::current_exe().unwrap())
            .args([
                "--exact",
                "store::tests::crash::writer_that_is_killed",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(DIRECTORY, place.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = lines
            .by_ref()
            .map(|line| line.unwrap())
            .filter(|line| line.starts_with('@'));
        let opened = said.next().expect("the writer opens its store");
        let mut words = opened.split(' ').skip(1);
        let revision: Revision = words.next().unwrap().parse().unwrap();
        rebuilds += u64::from(words.next() == Some("true"));
        // What was written but not acknowledged may be there: one transaction a writer.
        assert!(
            (acknowledged..=acknowledged + 8).contains(&revision),
            "round {round}: opened at {revision}, acknowledged {acknowledged}"
        );

        let mut seen = Vec::new();
        let until = random.gen_range(0..400);
        for line in said.by_ref().take(until) {
            seen.push(line);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before it died.
        seen.extend(said);
        let mut done: Vec<[u64; 3]> = seen.iter().filter_map(|line| parse(line)).collect();
        done.sort_unstable();
        for (expected, [found, ..]) in (revision + 1..).zip(&done).take(done.len().saturating_sub(8)) {
            assert_eq!(
                *found, expected,
                "round {round}: revisions are given out without gap or repeat"
            );
        }
        let store = place.open();
        rebuilds += u64::from(report(&store).rebuilt.is_some());
        run(async {
            for [revision, writer, number] in &done {
                let pair = store.get(format!("last/{writer}").as_bytes()).await.unwrap().unwrap();
                assert!(
                    pair.modified >= *revision,
                    "round {round}: writer {writer} lost {number}"
                );
                let pair = store
                    .get(format!("w/{writer}/{}", number % 50).as_bytes())
                    .await
                    .unwrap();
                // A later one of the same writer deletes it; the last may be there without having been acknowledged.
                let of_writer = done.iter().filter(|[_, by, _]| by == writer);
                let last = of_writer.map(|[.., number]| *number).max().unwrap();
                let later = (number + 1..=last + 1).any(|other| (other + 25) % 50 == number % 50);
                assert!(pair.is_some() || later, "round {round}: writer {writer} lost {number}");
            }
            acknowledged = done
                .last()
                .map_or(revision, |[revision, ..]| *revision)
                .max(store.revision());
            store.close().await;
        });
    }
    assert!(acknowledged > ROUNDS, "something was written");
    // sled recovers from a kill; that the index is made again each time would mean that it is of no use.
    assert!(rebuilds <= ROUNDS / 4, "{rebuilds} of {ROUNDS} kills damaged the index");
}

fn parse(line: &str) -> Option<[u64; 3]> {
    let mut words = line.strip_prefix("@done ")?.split(' ').map(str::parse);
    Some([words.next()?.ok()?, words.next()?.ok()?, words.next()?.ok()?])
}

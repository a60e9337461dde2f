//! What a crash leaves, and what comes after.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::*;

const CHILD: &str = "MINTMARK_TEST_LEDGER_CHILD";
/// How often the process is killed; a soak sets more.
const ROUNDS: &str = "MINTMARK_TEST_LEDGER_KILLS";

/// A leaf that nobody else would write at its place.
fn tagged(slot: Slot, tag: u64) -> LeafBytes {
    let mut random = [0; 11];
    random[3..].copy_from_slice(&tag.to_be_bytes());
    let serial = Serial::new(slot.log, slot.first, random).unwrap();
    let (log, serial) = (slot.log.into(), serial.as_bytes().to_vec().into());
    Leaf {
        log,
        index: slot.first,
        serial,
        ..Leaf::default()
    }
    .encode_to_vec()
}

/// Not a test of its own: the process that [`nothing_acknowledged_is_lost_when_the_process_is_killed`] kills. It appends as fast as it can and prints what was
/// acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_of_the_kill_loop() {
    let Ok(setting) = std::env::var(CHILD) else { return };
    let (round, root) = setting.split_once(' ').unwrap();
    let ledger = Ledger::open(Path::new(root), DOMAIN, Settings::new(Clock::system())).unwrap();
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..16_u64 {
        let (ledger, round) = (ledger.clone(), round.parse::<u64>().unwrap());
        callers.spawn(async move {
            for nth in 0_u64.. {
                let tag = round << 48 | caller << 40 | nth;
                let durable = ledger.append(1, |slot| vec![(tagged(slot, tag), ())]).await.unwrap();
                let line = format!("ack {} {tag}\n", durable[0].index());
                std::io::stdout().write_all(line.as_bytes()).unwrap();
            }
        });
    }
    callers.join_next().await;
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    let root = tempfile::tempdir().unwrap();
    let ledger = open(root.path());
    // So that the end of a segment lies on the way.
    fill(&ledger, 64_000).await;
    let mut before = ledger.checkpoint().0;
    ledger.shutdown().await.unwrap();
    let rounds: u64 = std::env::var(ROUNDS).map_or(20, |rounds| rounds.parse().unwrap());
    for round in 1..=rounds {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "ledger::tests::crash::child_of_the_kill_loop",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(CHILD, format!("{round} {}", root.path().display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged: Vec<(u64, u64)> = Vec::new();
        let mut take = |line: String| {
            // The test harness writes to the same pipe, even in the same line.
            let mut words = line.split(' ').skip_while(|word| *word != "ack").skip(1);
            let Some((index, tag)) = words.next().zip(words.next()) else {
                return 0;
            };
            if let Some(ack) = index.parse().ok().zip(tag.parse().ok()) {
                acknowledged.push(ack);
            }
            acknowledged.len()
        };
        let enough = usize::try_from(round * 37 % 400).unwrap() + 1;
        while take(lines.next().unwrap().unwrap()) < enough {}
        child.kill().unwrap();
        lines.for_each(|line| {
            take(line.unwrap_or_default());
        });
        child.wait().unwrap();

        let report = check(root.path());
        assert!(report.is_sound(), "round {round}: {report:?}");
        let ledger = open(root.path());
        let (after, reader) = (ledger.checkpoint().0, ledger.reader());
        for (index, tag) in &acknowledged {
            assert_eq!(
                reader.leaf(*index).unwrap(),
                tagged(Slot { log: 1, first: *index }, *tag),
                "round {round}"
            );
        }
        let proof = reader.prove_consistency(before.size, after.size).unwrap();
        assert_eq!(
            verify_consistency(before.size, &before.root, after.size, &after.root, &proof),
            Ok(()),
            "round {round}"
        );
        assert!(after.size >= before.size + acknowledged.len() as u64);
        before = after;
        ledger.shutdown().await.unwrap();
        assert_clean(root.path(), before.size);
    }
}

/// A ledger as a crash leaves it: the checkpoint is of 5 leaves, 9 more are there in two frames. The path of the leaves.
async fn crashed(root: &Path) -> PathBuf {
    let ledger = open(root);
    append(&ledger, 5).await.unwrap();
    ledger.shutdown().await.unwrap();
    let checkpoint = root.join("1/checkpoint");
    let old = fs::read(&checkpoint).unwrap();
    let ledger = open(root);
    append(&ledger, 4).await.unwrap();
    append(&ledger, 5).await.unwrap();
    ledger.shutdown().await.unwrap();
    fs::write(&checkpoint, old).unwrap();
    root.join("1/0000000000.leaves")
}

fn frame_ends(leaves: &Path) -> Vec<u64> {
    let mut ends = Vec::new();
    let file = fs::File::open(leaves).unwrap();
    frame::scan(&file, leaves, 0, |frame| {
        ends.push(frame.offset + (frame::HEADER + frame.body.len()) as u64);
        Ok(())
    })
    .unwrap();
    ends
}

#[tokio::test]
async fn an_end_cut_at_any_byte_is_mended_and_the_log_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let leaves = crashed(root.path()).await;
    let (whole, ends) = (fs::read(&leaves).unwrap(), frame_ends(&leaves));
    let checkpoint = fs::read(root.path().join("1/checkpoint")).unwrap();
    let covered = ends[ends.len() - 3];
    for cut in covered..=whole.len() as u64 {
        fs::write(&leaves, &whole[..usize::try_from(cut).unwrap()]).unwrap();
        fs::write(root.path().join("1/checkpoint"), &checkpoint).unwrap();
        let kept = [(ends[ends.len() - 1], 14), (ends[ends.len() - 2], 9), (covered, 5)]
            .into_iter()
            .find(|(end, _)| *end <= cut)
            .unwrap();
        let report = check(root.path());
        assert!(report.is_sound(), "cut at {cut}: {report:?}");
        assert_eq!(report.logs[0].size, kept.1);
        assert_eq!(
            report.logs[0].notes.is_empty(),
            cut == covered,
            "cut at {cut}: {report:?}"
        );
        let ledger = open(root.path());
        assert_eq!(append(&ledger, 1).await.unwrap()[0].index(), kept.1, "cut at {cut}");
        ledger.shutdown().await.unwrap();
        assert_clean(root.path(), kept.1 + 1);
    }
}

#[tokio::test]
async fn an_end_of_which_blocks_never_reached_the_disk_is_mended() {
    let root = tempfile::tempdir().unwrap();
    let leaves = crashed(root.path()).await;
    let mut bytes = fs::read(&leaves).unwrap();
    let ends = frame_ends(&leaves);
    // After a power cut a file may have its size without its content.
    let last = usize::try_from(ends[ends.len() - 2]).unwrap();
    bytes[last..].fill(0);
    bytes.extend([0; 5_000]);
    fs::write(&leaves, bytes).unwrap();
    assert!(check(root.path()).is_sound());
    let ledger = open(root.path());
    assert_eq!(append(&ledger, 1).await.unwrap()[0].index(), 9);
    ledger.shutdown().await.unwrap();
    assert_clean(root.path(), 10);
}

#[tokio::test]
async fn a_log_that_is_shorter_than_its_checkpoint_does_not_open_and_is_not_touched() {
    let root = tempfile::tempdir().unwrap();
    let leaves = crashed(root.path()).await;
    let (whole, ends) = (fs::read(&leaves).unwrap(), frame_ends(&leaves));
    let covered = ends[ends.len() - 3];
    for cut in 0..covered {
        let short = &whole[..usize::try_from(cut).unwrap()];
        fs::write(&leaves, short).unwrap();
        assert!(!check(root.path()).is_sound(), "cut at {cut}");
        assert!(
            matches!(
                Ledger::open(root.path(), DOMAIN, settings()),
                Err(LedgerError::Forked { .. })
            ),
            "cut at {cut}"
        );
        assert_eq!(fs::read(&leaves).unwrap(), short);
    }
    fs::remove_file(&leaves).unwrap();
    assert!(!check(root.path()).is_sound());
    assert!(matches!(
        Ledger::open(root.path(), DOMAIN, settings()),
        Err(LedgerError::Forked { .. })
    ));
}

#[tokio::test]
async fn damage_before_the_end_is_told_with_its_place_and_keeps_the_log_closed() {
    let root = tempfile::tempdir().unwrap();
    let leaves = crashed(root.path()).await;
    let (whole, ends) = (fs::read(&leaves).unwrap(), frame_ends(&leaves));
    // In the frame before the last, which no checkpoint covers.
    let frame = ends[ends.len() - 3]..ends[ends.len() - 2];
    for at in frame.clone() {
        let mut bytes = whole.clone();
        bytes[usize::try_from(at).unwrap()] ^= 0x10;
        fs::write(&leaves, &bytes).unwrap();
        let told = |error: &LedgerError| matches!(error, LedgerError::Corrupt { path, offset, .. } if *path == leaves && *offset == frame.start);
        assert!(check(root.path()).first_problem().is_some_and(told), "byte {at}");
        assert!(
            Ledger::open(root.path(), DOMAIN, settings()).is_err_and(|error| told(&error)),
            "byte {at}"
        );
        assert_eq!(fs::read(&leaves).unwrap(), bytes);
    }
}

#[tokio::test]
async fn a_log_whose_leaves_were_replaced_does_not_open() {
    let root = tempfile::tempdir().unwrap();
    let leaves = crashed(root.path()).await;
    let other = tempfile::tempdir().unwrap();
    let ledger = open(other.path());
    ledger
        .append(14, |slot| {
            (0..14)
                .map(|nth| {
                    (
                        tagged(
                            Slot {
                                log: 1,
                                first: slot.index(nth),
                            },
                            99,
                        ),
                        (),
                    )
                })
                .collect()
        })
        .await
        .unwrap();
    ledger.shutdown().await.unwrap();
    fs::copy(other.path().join("1/0000000000.leaves"), &leaves).unwrap();
    assert!(matches!(
        Ledger::open(root.path(), DOMAIN, settings()),
        Err(LedgerError::Forked { .. })
    ));
    assert!(!check(root.path()).is_sound());
}

//! After a clean stop no byte can be changed without a word.

use std::fs;
use std::path::PathBuf;

use super::*;

fn files(root: &Path) -> Vec<PathBuf> {
    fs::read_dir(root.join("1"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}

#[tokio::test]
async fn each_changed_byte_of_a_small_ledger_is_reported() {
    let root = tempfile::tempdir().unwrap();
    let ledger = open(root.path());
    for count in [1, 3, 2] {
        append(&ledger, count).await.unwrap();
    }
    ledger.shutdown().await.unwrap();
    assert_clean(root.path(), 6);
    let mut flipped = 0;
    for path in files(root.path()) {
        let bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            for mask in [0x01, 0x02, 0x20, 0x80, 0xff] {
                let mut wrong = bytes.clone();
                wrong[at] ^= mask;
                fs::write(&path, &wrong).unwrap();
                let report = check(root.path());
                assert!(
                    !report.is_sound(),
                    "{} byte {at} mask {mask}: {report:?}",
                    path.display()
                );
            }
            flipped += 1;
        }
        // A byte more or less is a change as well.
        fs::write(&path, [&bytes[..], b"\n"].concat()).unwrap();
        let mut sound = check(root.path());
        if path.ends_with("0000000000.leaves") || path.ends_with("roots") {
            // That much could be an unfinished write; it passes, but not without a word.
            assert!(!sound.logs.remove(0).notes.is_empty());
        } else {
            assert!(!sound.is_sound(), "{}", path.display());
        }
        fs::write(&path, &bytes).unwrap();
    }
    assert!(flipped > 700, "{flipped} bytes");
    assert_clean(root.path(), 6);
}

#[tokio::test]
async fn a_changed_byte_of_a_sealed_segment_is_reported_in_its_file() {
    let root = tempfile::tempdir().unwrap();
    let ledger = open(root.path());
    fill(&ledger, 65_600).await;
    ledger.shutdown().await.unwrap();
    assert_clean(root.path(), 65_600);
    for path in files(root.path()) {
        let bytes = fs::read(&path).unwrap();
        // Heads, tables and ends, and some places between.
        let some = (0..6).map(|nth| bytes.len() * nth / 6 + nth);
        let places = [
            0,
            4,
            8,
            15,
            16,
            23,
            24,
            1_047,
            1_048,
            9_239,
            9_240,
            bytes.len().saturating_sub(1),
        ]
        .into_iter()
        .chain(some);
        for at in places.filter(|at| *at < bytes.len()) {
            let mut wrong = bytes.clone();
            wrong[at] ^= 0x04;
            fs::write(&path, &wrong).unwrap();
            let report = check(root.path());
            let small = bytes.len() < 1_000 && !path.ends_with("roots");
            let named = |error: &LedgerError| matches!(error, LedgerError::Corrupt { path: named, .. } if small || *named == path);
            assert!(
                report.first_problem().is_some_and(named),
                "{} byte {at}: {report:?}",
                path.display()
            );
        }
        fs::write(&path, &bytes).unwrap();
    }
}

#[tokio::test]
async fn a_file_that_does_not_belong_there_is_reported() {
    let root = tempfile::tempdir().unwrap();
    let ledger = open(root.path());
    append(&ledger, 3).await.unwrap();
    ledger.shutdown().await.unwrap();
    for name in [
        "1/notes.txt",
        "1/0.leaves",
        "1/00000000000.leaves",
        "1/0000000002.leaves",
        "1/0000000000.hashes",
        "1/x.tmp",
        "1/key~",
        "notes",
        "01",
        "65536",
    ] {
        let path = root.path().join(name);
        fs::write(&path, "").unwrap();
        assert!(!check(root.path()).is_sound(), "{name}");
        fs::remove_file(&path).unwrap();
    }
    // A log that was being made when the process was killed.
    fs::create_dir(root.path().join("2.tmp")).unwrap();
    let report = check(root.path());
    assert!(report.is_sound() && report.notes.len() == 1, "{report:?}");
    open(root.path()).shutdown().await.unwrap();
    assert_eq!(check(root.path()).notes, Vec::<String>::new());
    assert_clean(root.path(), 3);
}

#[tokio::test]
async fn a_missing_file_is_reported_but_for_the_private_key_of_a_copy() {
    let root = tempfile::tempdir().unwrap();
    let ledger = open(root.path());
    fill(&ledger, 131_100).await;
    ledger.shutdown().await.unwrap();
    for path in files(root.path()) {
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let report = check(root.path());
        // The hashes of the oldest segment go first when it is pruned.
        let passes = path.ends_with("key") || path.ends_with("0000000000.hashes");
        assert_eq!(report.is_sound(), passes, "{}: {report:?}", path.display());
        assert!(!passes || !report.logs[0].notes.is_empty());
        fs::write(&path, bytes).unwrap();
    }
}

#[tokio::test]
async fn a_leaf_of_another_place_is_reported_whatever_its_checksums_say() {
    let root = tempfile::tempdir().unwrap();
    let ledger = open(root.path());
    append(&ledger, 2).await.unwrap();
    // As a faulty or dishonest issuer would write it: properly signed, but not what it claims to be.
    ledger.append(1, |_| vec![(leaf(77), ())]).await.unwrap();
    ledger.shutdown().await.unwrap();
    let report = check(root.path());
    let problem = report.first_problem().unwrap().to_string();
    assert!(
        problem.contains("leaf 2: it says that it is leaf 77 of log 1"),
        "{problem}"
    );
}

//! The issuance log, looked at from outside.

use std::path::{Path, PathBuf};
use std::process::Command;

use system::{Dev, Done, binary, run};

fn verify(data: &Path) -> Done {
    run(
        Command::new(binary("mintmark"))
            .args(["ledger", "verify", "--data"])
            .arg(data),
        b"",
    )
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.push(path);
        }
    }
    all.sort();
    all
}

/// Every file, and in each every byte of the first and last 64 and every 13th between: the server's own tests flip all of them.
#[test]
fn a_byte_that_was_flipped_is_reported_with_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(&dir, &[]);
    for audience in ["a", "b", "c"] {
        dev.mintmark(["fetch", "jwt", "--audience", audience]).ok();
    }
    let data = dev.server_data();
    dev.interrupt();
    assert!(verify(&data).ok().stdout.contains("sound"));
    let files = files(&data.join("ledger"));
    assert!(files.len() >= 5, "{files:?}");
    for file in &files {
        let whole = std::fs::read(file).unwrap();
        let chosen = |at: &usize| *at < 64 || *at + 64 >= whole.len() || at.is_multiple_of(13);
        for at in (0..whole.len()).filter(chosen) {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x40 >> (at % 7);
            std::fs::write(file, &flipped).unwrap();
            let found = verify(&data);
            assert!(
                found.status == 1 && found.stderr.contains("damaged"),
                "byte {at} of {} was flipped, and nobody noticed: {found:?}",
                file.display()
            );
        }
        std::fs::write(file, &whole).unwrap();
    }
    // A file more, a file less.
    std::fs::write(data.join("ledger/1/stranger"), b"x").unwrap();
    verify(&data).refused(1, "stranger");
    std::fs::remove_file(data.join("ledger/1/stranger")).unwrap();
    for file in &files {
        let aside = dir.path().join("aside");
        std::fs::rename(file, &aside).unwrap();
        let name = file.file_name().unwrap();
        // A copy without the private key is one that nothing can be appended to, and sound.
        assert_eq!(verify(&data).status, i32::from(name != "key"), "{name:?} is missing");
        std::fs::rename(&aside, file).unwrap();
    }
    verify(&data).ok();
}

#[test]
fn a_certificate_that_is_not_the_one_logged_fails() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(&dir, &[]);
    let other = tempfile::tempdir().unwrap();
    let other = Dev::start(&other, &[]);
    let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
    dev.mintmark(["fetch", "x509", "--write", ours.to_str().unwrap()]).ok();
    other
        .mintmark(["fetch", "x509", "--write", theirs.to_str().unwrap()])
        .ok();
    let (ours, theirs) = (ours.join("svid.0.pem"), theirs.join("svid.0.pem"));

    // One of ours with another content under the same serial.
    let forged = {
        let pem = pem::parse(std::fs::read(&ours).unwrap()).unwrap();
        let mut der = pem.into_contents();
        let name = b"/user/";
        let at = der.windows(name.len()).rposition(|window| window == name).unwrap();
        der[at..at + name.len()].copy_from_slice(b"/USER/");
        let path = dir.path().join("forged.pem");
        std::fs::write(&path, pem::encode(&pem::Pem::new("CERTIFICATE", der))).unwrap();
        path
    };
    // One with another signature.
    let resigned = {
        let pem = pem::parse(std::fs::read(&ours).unwrap()).unwrap();
        let mut der = pem.into_contents();
        *der.last_mut().unwrap() ^= 1;
        let path = dir.path().join("resigned.pem");
        std::fs::write(&path, pem::encode(&pem::Pem::new("CERTIFICATE", der))).unwrap();
        path
    };
    // One of somebody else.
    let foreign = dir.path().join("foreign.pem");
    let key = dir.path().join("foreign.key");
    run(
        Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-subj",
                "/CN=a",
                "-keyout",
            ])
            .arg(&key)
            .arg("-out")
            .arg(&foreign),
        b"",
    )
    .ok();
    let data = dev.server_data();
    for (file, why) in [
        (&theirs, "not in the log"),
        (&forged, "not what was logged"),
        (&foreign, "20 bytes"),
    ] {
        let file = file.to_str().unwrap();
        dev.mintmark(["ledger", "verify", "--cert", file])
            .refused(1, "not in the log");
        let offline = dev.mintmark(["ledger", "verify", "--cert", file, "--data", data.to_str().unwrap()]);
        let both = format!("{}{}", offline.stdout, offline.stderr);
        assert!(
            offline.status == 1 && (both.contains(why) || both.contains("starts with 01")),
            "{file}: {both}"
        );
    }
    dev.mintmark(["ledger", "verify", "--cert", resigned.to_str().unwrap()])
        .refused(1, "signature");
    dev.mintmark(["ledger", "verify", "--cert", ours.to_str().unwrap()])
        .ok();
    let nothing = dir.path().join("nothing.pem");
    std::fs::write(&nothing, "no certificate").unwrap();
    dev.mintmark(["ledger", "verify", "--cert", nothing.to_str().unwrap()])
        .refused(1, "no PEM block CERTIFICATE");
    dev.mintmark(["ledger", "verify"]).refused(2, "--data");
    dev.mintmark(["ledger", "verify", "--data", dev.dir.to_str().unwrap()])
        .refused(1, "did you mean");
}

#[test]
fn the_log_proves_its_leaves_and_its_growth() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(&dir, &[]);
    let then = dir.path().join("then.txt");
    std::fs::write(&then, dev.mintmark(["ledger", "checkpoint"]).ok().stdout).unwrap();
    for n in 0..20 {
        dev.mintmark(["fetch", "jwt", "--audience", &format!("audience-{n}")])
            .ok();
    }
    let key = dev.server_data().join("ledger/1/log");
    let (key, then) = (key.to_str().unwrap(), then.to_str().unwrap());
    let grown = dev
        .mintmark(["ledger", "prove", "--since", then, "--log-key", key, "--output", "json"])
        .ok()
        .json();
    assert!(
        grown["to"].as_u64() >= Some(grown["from"].as_u64().unwrap() + 20),
        "{grown}"
    );
    let proven = dev
        .mintmark(["ledger", "prove", "5", "--log-key", key, "--output", "json"])
        .ok()
        .json();
    assert_eq!(proven["index"], 5);
    let leaves = dev
        .mintmark(["ledger", "show", "--last", "5", "--output", "json"])
        .ok()
        .json();
    let indices: Vec<_> = leaves["leaves"]
        .as_array()
        .unwrap()
        .iter()
        .map(|leaf| leaf["index"].as_u64().unwrap())
        .collect();
    assert!(indices.len() == 5 && indices.is_sorted_by(|a, b| a > b), "{indices:?}");

    // A history that is not this log's.
    let forged = std::fs::read_to_string(then).unwrap();
    let root = forged.lines().nth(2).unwrap();
    let other = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let path = dir.path().join("forged.txt");
    std::fs::write(&path, forged.replace(root, other)).unwrap();
    dev.mintmark(["ledger", "prove", "--since", path.to_str().unwrap()])
        .refused(1, "rewritten");
    dev.mintmark(["ledger", "prove", "--since", path.to_str().unwrap(), "--log-key", key])
        .refused(1, "");
    dev.mintmark(["ledger", "show", "99999"]).refused(1, "not found");
    dev.mintmark(["ledger", "show", "0100010000000000030000000000000000000000"])
        .refused(1, "not found");
    dev.mintmark(["ledger", "show", "spiffe://a/b"])
        .refused(2, "SERIAL|JTI|INDEX");
}

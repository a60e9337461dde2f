//! `yardstick`: what one core and the disk of this machine can do, so that figures of two machines can be held against each other.
//! The server signs once for each credential, verifies once for each signing request, and waits for one fsync a batch.

use std::{
    fs::{self, File},
    io::{Seek as _, Write as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
    },
};

use crate::{
    drive::Latencies,
    options,
    process::Process,
    report::{Report, count},
};

/// How long each is tried. CPU time is read in steps of 10 ms.
const TIME: Duration = Duration::from_secs(2);

/// As much as a certificate has to sign.
const MESSAGE: [u8; 450] = [7; 450];

/// Writes that are made durable, and how large each is: some tens of leaves.
const FSYNCS: u32 = 200;
const BLOCK: [u8; 8192] = [7; 8192];

pub(super) fn run(options: &options::Target) -> Result<Report> {
    let (sign, verify) = signatures()?;
    let (growing, in_place) = fsyncs(options)?;
    Ok(Report::new("yardstick", "this machine")
        .number("sign_us", sign)
        .number("verify_us", verify)
        .number("signatures_per_core_second", 1e6 / sign)
        .number("verified_and_signed_per_core_second", 1e6 / (sign + verify))
        .number("fsync_p50_ms", in_place.quantile_ms(0.5))
        .number("fsync_p99_ms", in_place.quantile_ms(0.99))
        .number("fsync_growing_p50_ms", growing.quantile_ms(0.5)))
}

/// CPU microseconds of an ECDSA P-256 signature and of a verification, by ring.
fn signatures() -> Result<(f64, f64)> {
    let random = SystemRandom::new();
    let wrong = |_| anyhow!("ring does not sign");
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).map_err(wrong)?;
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random)
        .map_err(|error| anyhow!("ring does not take its own key: {error}"))?;
    let signature = key.sign(&random, &MESSAGE).map_err(wrong)?;
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key());
    let sign = cpu_micros(|| key.sign(&random, &MESSAGE).map(drop).map_err(wrong))?;
    let verify = cpu_micros(|| public.verify(&MESSAGE, signature.as_ref()).map_err(wrong))?;
    Ok((sign, verify))
}

fn cpu_micros(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let (begun, before) = (Instant::now(), Process::own().cpu()?);
    let mut times = 0;
    while begun.elapsed() < TIME {
        work()?;
        times += 1;
    }
    Ok((Process::own().cpu()? - before).as_secs_f64() * 1e6 / count(times))
}

/// Fsyncs of a file that grows, which costs a file system's own journal, and of one whose blocks are there already.
fn fsyncs(options: &options::Target) -> Result<(Latencies, Latencies)> {
    let path = options.data_dir.join(format!(".yardstick-{}", std::process::id()));
    let mut file = File::create_new(&path).with_context(|| format!("create {}", path.display()))?;
    let wrote = durable_writes(&mut file).and_then(|growing| {
        file.rewind()?;
        Ok((growing, durable_writes(&mut file)?))
    });
    fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    wrote.with_context(|| format!("write {}", path.display()))
}

fn durable_writes(file: &mut File) -> std::io::Result<Latencies> {
    let mut latencies = Latencies::default();
    for _ in 0..FSYNCS {
        let begun = Instant::now();
        file.write_all(&BLOCK)?;
        file.sync_data()?;
        latencies.push(begun.elapsed());
    }
    Ok(latencies.sorted())
}

//! Signed notes and checkpoints, as C2SP `signed-note` and `tlog-checkpoint` define them, with one Ed25519 signature.
//!
//! No I/O. Every text here has exactly one form: what parses writes back to the same bytes.

use std::fmt::{self, Display, Formatter, Write as _};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use zeroize::Zeroizing;

use super::merkle::Hash;

/// The signature type byte of Ed25519.
const ED25519_TYPE: u8 = 1;
/// The longest note that is parsed.
const MAX_NOTE: usize = 64 * 1024;
/// The most signatures of a note that are looked at.
const MAX_SIGNATURES: usize = 64;
const DASH: &str = "\u{2014} ";

/// Why a note, a checkpoint or a key is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// The text has not the form that it must have.
    #[error("malformed {what}: {why}")]
    Malformed {
        /// "note", "checkpoint", "verifier key", …
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No signature of the expected key.
    #[error("not signed by {0}")]
    Unsigned(String),
    /// A signature of the expected key that does not verify.
    #[error("the signature of {0} does not verify")]
    Signature(String),
    /// A checkpoint of another log.
    #[error("a checkpoint of {got}, not of {expected}")]
    Origin {
        /// What it says.
        got: String,
        /// Whose was expected.
        expected: String,
    },
}

fn malformed(what: &'static str, why: &'static str) -> NoteError {
    NoteError::Malformed { what, why }
}

/// The public key of a log with the name it signs under: the `vkey` of C2SP `signed-note`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    id: u32,
    public: [u8; 32],
}

impl VerifierKey {
    fn new(name: &str, public: [u8; 32]) -> Result<Self, NoteError> {
        if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+') {
            return Err(malformed(
                "key name",
                "it is empty or holds a space, a control character or a plus",
            ));
        }
        Ok(Self {
            id: key_id(name, &public),
            name: name.to_owned(),
            public,
        })
    }

    /// The name: for a log, the origin of its checkpoints.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The raw Ed25519 public key.
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// Checks a note and returns its text, without the signatures. Signatures of other keys are passed over.
    ///
    /// # Errors
    /// [`NoteError`] when it is no note, or has no valid signature of this key.
    pub fn open<'a>(&self, note: &'a str) -> Result<&'a str, NoteError> {
        let (text, signatures) = split(note)?;
        let mut found = false;
        for (name, id, signature) in signatures {
            if name != self.name || id != self.id {
                continue;
            }
            UnparsedPublicKey::new(&ED25519, &self.public)
                .verify(text.as_bytes(), &signature)
                .map_err(|_| NoteError::Signature(self.name.clone()))?;
            found = true;
        }
        if found {
            Ok(text)
        } else {
            Err(NoteError::Unsigned(self.name.clone()))
        }
    }

    /// Checks a checkpoint of this log.
    ///
    /// # Errors
    /// As [`Self::open`], and when the text is no checkpoint or one of another log.
    pub fn open_checkpoint(&self, note: &str) -> Result<Checkpoint, NoteError> {
        let checkpoint: Checkpoint = self.open(note)?.parse()?;
        if checkpoint.origin == self.name {
            Ok(checkpoint)
        } else {
            Err(NoteError::Origin {
                got: checkpoint.origin,
                expected: self.name.clone(),
            })
        }
    }

    /// As [`Self::open`] for our own files: this signature and no other, and not a byte that could be otherwise.
    pub(super) fn open_canonical<'a>(&self, note: &'a str) -> Result<&'a str, NoteError> {
        let text = self.open(note)?;
        match split(note)?.1.as_slice() {
            [(name, id, signature)] if assemble(text, name, *id, signature) == note => Ok(text),
            _ => Err(malformed("note", "more than the one signature that belongs there")),
        }
    }
}

impl Display for VerifierKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}+{:08x}+{}",
            self.name,
            self.id,
            STANDARD.encode(typed(&self.public))
        )
    }
}

impl FromStr for VerifierKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let wrong = |why| malformed("verifier key", why);
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(_), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(wrong("it is not name+id+key"));
        };
        let key = STANDARD.decode(key).map_err(|_| wrong("the key is not base64"))?;
        let Some((&ED25519_TYPE, public)) = key.split_first() else {
            return Err(wrong("the key is not of type Ed25519"));
        };
        let public = public.try_into().map_err(|_| wrong("the key has not 32 bytes"))?;
        let key = Self::new(name, public)?;
        if key.to_string() == text {
            Ok(key)
        } else {
            Err(wrong("the id is not that of the name and the key"))
        }
    }
}

/// The private key of a log.
pub(super) struct Signer {
    pair: Ed25519KeyPair,
    seed: Zeroizing<[u8; 32]>,
    verifier: VerifierKey,
}

impl Signer {
    /// A new key under `name`.
    ///
    /// # Errors
    /// [`NoteError`] when the name cannot be a key name, or the system has no randomness.
    pub(super) fn generate(name: &str) -> Result<Self, NoteError> {
        let mut seed = Zeroizing::new([0; 32]);
        SystemRandom::new()
            .fill(&mut *seed)
            .map_err(|_| malformed("key", "the system gave no randomness"))?;
        Self::from_seed(name, seed)
    }

    fn from_seed(name: &str, seed: Zeroizing<[u8; 32]>) -> Result<Self, NoteError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&*seed).map_err(|_| malformed("key", "the seed is refused"))?;
        let public = pair
            .public_key()
            .as_ref()
            .try_into()
            .map_err(|_| malformed("key", "the public key has not 32 bytes"))?;
        Ok(Self {
            verifier: VerifierKey::new(name, public)?,
            pair,
            seed,
        })
    }

    /// The public half.
    pub(super) fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// Signs `text`, which ends in a newline.
    pub(super) fn sign(&self, text: &str) -> String {
        assemble(
            text,
            &self.verifier.name,
            self.verifier.id,
            self.pair.sign(text.as_bytes()).as_ref(),
        )
    }

    /// The text of the key file: the private form of a note key that Go's `golang.org/x/mod/sumdb/note` reads, and a newline.
    pub(super) fn to_file(&self) -> Zeroizing<String> {
        let seed = Zeroizing::new(typed(&self.seed));
        let seed = Zeroizing::new(STANDARD.encode(*seed));
        Zeroizing::new(format!(
            "PRIVATE+KEY+{}+{:08x}+{}\n",
            self.verifier.name, self.verifier.id, *seed
        ))
    }

    /// Reads what [`Self::to_file`] wrote; the text has no other form.
    pub(super) fn from_file(text: &str) -> Result<Self, NoteError> {
        let wrong = |why| malformed("key file", why);
        let line = text
            .strip_suffix('\n')
            .ok_or_else(|| wrong("it does not end in a newline"))?;
        let rest = line
            .strip_prefix("PRIVATE+KEY+")
            .ok_or_else(|| wrong("it does not begin with PRIVATE+KEY+"))?;
        let mut parts = rest.splitn(3, '+');
        let (Some(name), Some(_), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(wrong("it is not PRIVATE+KEY+name+id+key"));
        };
        let key = Zeroizing::new(STANDARD.decode(key).map_err(|_| wrong("the key is not base64"))?);
        let Some((&ED25519_TYPE, seed)) = key.split_first() else {
            return Err(wrong("the key is not of type Ed25519"));
        };
        let seed = Zeroizing::new(<[u8; 32]>::try_from(seed).map_err(|_| wrong("the key has not 32 bytes"))?);
        let signer = Self::from_seed(name, seed)?;
        if *signer.to_file() == text {
            Ok(signer)
        } else {
            Err(wrong("the id is not that of the name and the key"))
        }
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("verifier", &self.verifier)
            .finish_non_exhaustive()
    }
}

/// What a checkpoint says: the tree of one size has this root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log: `<trust domain>/mintmark/<log number>`.
    pub origin: String,
    /// The number of leaves.
    pub size: u64,
    /// The root of the tree of that many leaves.
    pub root: Hash,
}

impl Display for Checkpoint {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.origin, self.size, STANDARD.encode(self.root))
    }
}

impl FromStr for Checkpoint {
    type Err = NoteError;

    /// Parses the text of a note. Extension lines are passed over, as C2SP says.
    fn from_str(text: &str) -> Result<Self, NoteError> {
        let wrong = |why| malformed("checkpoint", why);
        let body = text
            .strip_suffix('\n')
            .ok_or_else(|| wrong("it does not end in a newline"))?;
        let mut lines = body.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(wrong("it has fewer than three lines"));
        };
        if origin.is_empty() || lines.any(str::is_empty) {
            return Err(wrong("a line is empty"));
        }
        let size = decimal(size).ok_or_else(|| wrong("the size is not a decimal number"))?;
        let root = STANDARD.decode(root).ok().and_then(|root| root.try_into().ok());
        Ok(Self {
            origin: origin.to_owned(),
            size,
            root: root.ok_or_else(|| wrong("the root is not 32 bytes of base64"))?,
        })
    }
}

/// A decimal number in its one form: no sign, no leading zeroes.
pub(super) fn decimal(text: &str) -> Option<u64> {
    let number = text.parse::<u64>().ok()?;
    (number.to_string() == text).then_some(number)
}

fn key_id(name: &str, public: &[u8; 32]) -> u32 {
    let hash = digest(&SHA256, &[name.as_bytes(), b"\n", &typed(public)].concat());
    hash.as_ref().first_chunk().copied().map_or(0, u32::from_be_bytes)
}

fn typed(key: &[u8; 32]) -> [u8; 33] {
    let mut typed = [ED25519_TYPE; 33];
    typed[1..].copy_from_slice(key);
    typed
}

fn assemble(text: &str, name: &str, id: u32, signature: &[u8]) -> String {
    let mut note = String::with_capacity(text.len() + name.len() + 120);
    let signature = STANDARD.encode([&id.to_be_bytes(), signature].concat());
    let _ = writeln!(note, "{text}\n{DASH}{name} {signature}");
    note
}

type Signatures<'a> = Vec<(&'a str, u32, Vec<u8>)>;

fn split(note: &str) -> Result<(&str, Signatures<'_>), NoteError> {
    let wrong = |why| malformed("note", why);
    if note.len() > MAX_NOTE {
        return Err(wrong("it is longer than 64 KiB"));
    }
    if note.chars().any(|c| c < ' ' && c != '\n') {
        return Err(wrong("it holds a control character"));
    }
    let end = note
        .rfind("\n\n")
        .ok_or_else(|| wrong("no empty line separates text and signatures"))?;
    let (text, signatures) = (&note[..=end], &note[end + 2..]);
    let lines = signatures
        .strip_suffix('\n')
        .ok_or_else(|| wrong("it does not end in a signature line"))?;
    let parsed = lines
        .split('\n')
        .map(|line| signature_line(line).ok_or_else(|| wrong("a line after the text is no signature")));
    let parsed = parsed.take(MAX_SIGNATURES + 1).collect::<Result<Signatures<'_>, _>>()?;
    if parsed.len() > MAX_SIGNATURES {
        return Err(wrong("it has more than 64 signatures"));
    }
    Ok((text, parsed))
}

fn signature_line(line: &str) -> Option<(&str, u32, Vec<u8>)> {
    let (name, signature) = line.strip_prefix(DASH)?.split_once(' ')?;
    let signature = STANDARD.decode(signature).ok()?;
    let (id, signature) = signature.split_first_chunk()?;
    if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c == '+') || signature.is_empty() {
        return None;
    }
    Some((name, u32::from_be_bytes(*id), signature.to_vec()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const C2SP_KEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    const C2SP_NOTE: &str = "This is an example message.\n\n\u{2014} example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";

    fn checkpoint() -> Checkpoint {
        Checkpoint {
            origin: "example.org/mintmark/1".to_owned(),
            size: 20_852_163,
            root: [9; 32],
        }
    }

    #[test]
    fn the_example_of_c2sp_verifies() {
        let key: VerifierKey = C2SP_KEY.parse().unwrap();
        assert_eq!(key.open(C2SP_NOTE), Ok("This is an example message.\n"));
        assert_eq!(key.to_string(), C2SP_KEY);
    }

    #[test]
    fn a_checkpoint_signs_opens_and_is_three_lines() {
        let signer = Signer::generate("example.org/mintmark/1").unwrap();
        let note = signer.sign(&checkpoint().to_string());
        assert_eq!(signer.verifier().open_checkpoint(&note), Ok(checkpoint()));
        assert_eq!(
            checkpoint().to_string(),
            format!("example.org/mintmark/1\n20852163\n{}\n", STANDARD.encode([9; 32]))
        );
        let other = Signer::generate("example.org/mintmark/1").unwrap();
        assert_eq!(
            other.verifier().open_checkpoint(&note),
            Err(NoteError::Unsigned("example.org/mintmark/1".to_owned()))
        );
    }

    #[test]
    fn no_byte_of_a_note_or_a_key_file_can_be_otherwise() {
        let signer = Signer::generate("example.org/mintmark/1").unwrap();
        let note = signer.sign(&checkpoint().to_string());
        for wrong in flips(note.as_bytes()) {
            assert!(signer.verifier().open_canonical(&wrong).is_err(), "{wrong}");
        }
        let vkey = signer.verifier().to_string();
        for wrong in flips(vkey.as_bytes()) {
            assert_ne!(wrong.parse::<VerifierKey>().as_ref(), Ok(signer.verifier()), "{wrong}");
        }
        let file = signer.to_file();
        assert_eq!(Signer::from_file(&file).unwrap().verifier(), signer.verifier());
        for wrong in flips(file.as_bytes()) {
            assert!(Signer::from_file(&wrong).is_err_and(|_| true), "{wrong}");
        }
    }

    /// Every text that differs in one byte, all 255 other values; those that are not UTF-8 could not even be handed in.
    fn flips(bytes: &[u8]) -> Vec<String> {
        let mut all = Vec::new();
        for at in 0..bytes.len() {
            for mask in 1..=255_u8 {
                let mut wrong = bytes.to_vec();
                wrong[at] ^= mask;
                all.extend(String::from_utf8(wrong).ok());
            }
        }
        all
    }

    #[test]
    fn a_signer_does_not_print_its_key() {
        let signer = Signer::generate("example.org/mintmark/1").unwrap();
        let seed = STANDARD.encode(typed(&signer.seed));
        assert!(!format!("{signer:?}").contains(&seed[4..]));
    }

    #[test]
    fn signatures_of_others_are_passed_over() {
        let (ours, other) = (Signer::generate("a").unwrap(), Signer::generate("b").unwrap());
        let mut note = ours.sign("text\n");
        note.push_str(other.sign("text\n").split_once("\n\n").unwrap().1);
        assert_eq!(ours.verifier().open(&note), Ok("text\n"));
        assert_eq!(other.verifier().open(&note), Ok("text\n"));
        assert!(ours.verifier().open_canonical(&note).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_parses_writes_back(text in "\\PC{0,40}(\n\\PC{0,40}){0,8}\n?") {
            if let Ok(checkpoint) = text.parse::<Checkpoint>() {
                prop_assert!(text.starts_with(&checkpoint.to_string()));
            }
            if let Ok(key) = text.parse::<VerifierKey>() {
                prop_assert_eq!(key.to_string(), text.clone());
            }
            let key: VerifierKey = C2SP_KEY.parse().unwrap();
            prop_assert!(key.open(&text).is_err());
        }
    }
}

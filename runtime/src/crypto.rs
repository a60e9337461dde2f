//! The cryptography provider, randomness, secrets in memory and secrets at rest.
//!
//! In come the operating system's randomness and a key-encryption key from a file; out come the one rustls provider, random bytes,
//! wrappers for secrets that cannot be printed and are wiped when dropped, and [sealed boxes](Kek::seal). Everyone may use it.

mod sealed;
mod secret;

use std::sync::{Arc, OnceLock};

use nix::sys::resource::{Resource, setrlimit};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::crypto::CryptoProvider;

pub use sealed::{Kek, KekAccess, SealError};
pub use secret::{SecretBytes, SecretString};

/// Makes ring this process's TLS provider. The first line of every `main`; calling it again does nothing.
pub fn install() {
    // An error means that a provider is installed already, by an earlier call.
    let _ = CryptoProvider::install_default(rustls::crypto::ring::default_provider());
}

/// Keeps this process's memory, which holds keys, out of core files and from other processes of its user: it is no longer dumpable. Early in every `main`
/// of a program that holds keys.
///
/// # Errors
/// When the operating system refuses.
pub fn hide_memory() -> std::io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    nix::sys::prctl::set_dumpable(false)?;
    Ok(())
}

/// The provider that every TLS configuration is built with.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())))
}

/// `N` bytes from the operating system's cryptographic generator.
///
/// # Panics
/// When the operating system has no randomness to give: nothing safe can be done then.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill_random(&mut bytes);
    bytes
}

/// Fills `bytes` from the operating system's cryptographic generator.
///
/// # Panics
/// As [`random`] does.
pub fn fill_random(bytes: &mut [u8]) {
    SystemRandom::new()
        .fill(bytes)
        .expect("the operating system gives random bytes");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installing_the_provider_twice_is_installing_it_once() {
        install();
        install();
        assert!(CryptoProvider::get_default().is_some());
        assert!(Arc::ptr_eq(&provider(), &provider()));
    }

    #[test]
    fn random_bytes_differ() {
        assert_ne!(random::<16>(), random::<16>());
    }
}

//! Offers an old version of TLS and sees whether the server takes it.
//!
//! `rustls` cannot speak these versions at all, so the hello is written here, byte by byte (RFC 4346 §7.4.1.2).

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// Suites that a server of that time would have taken: ECDHE and RSA with AES-CBC and SHA-1, and 3DES.
const SUITES: [u16; 6] = [0xC009, 0xC00A, 0xC013, 0xC014, 0x002F, 0x000A];

/// Whether a server answers a hello of at most `version` with a hello of its own.
pub(super) async fn is_accepted(host: &str, port: u16, version: u16, most: Duration) -> Result<bool, String> {
    let exchange = async {
        let mut tcp = TcpStream::connect((host, port))
            .await
            .map_err(|e| format!("connect to {host}:{port}: {e}"))?;
        tcp.write_all(&hello(host, version))
            .await
            .map_err(|e| format!("send a hello: {e}"))?;
        let mut answer = [0; 11];
        let mut read = 0;
        // A server may also just hang up; that is a refusal.
        while let Ok(n @ 1..) = tcp.read(&mut answer[read..]).await {
            read += n;
            if read == answer.len() {
                break;
            }
        }
        Ok(answer_accepts(&answer[..read], version))
    };
    timeout(most, exchange).await.unwrap_or(Ok(false))
}

/// Whether an answer begins with a handshake record that holds a ServerHello of at most this version.
fn answer_accepts(answer: &[u8], version: u16) -> bool {
    match answer {
        [0x16, _, _, _, _, 0x02, _, _, _, major, minor, ..] => u16::from_be_bytes([*major, *minor]) <= version,
        _ => false,
    }
}

/// A ClientHello that offers nothing newer than `version`.
fn hello(host: &str, version: u16) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    body.extend([0x5A; 32]);
    body.push(0);
    body.extend(sized(&SUITES.iter().flat_map(|s| s.to_be_bytes()).collect::<Vec<_>>()));
    body.extend([1, 0]);
    let mut extensions = Vec::new();
    if host.parse::<std::net::IpAddr>().is_err() {
        let name = [&[0][..], &sized(host.as_bytes())].concat();
        extensions.extend(extension(0x0000, &sized(&name)));
    }
    extensions.extend(extension(0x000A, &sized(&[0x00, 0x17, 0x00, 0x18])));
    extensions.extend(extension(0x000B, &[1, 0]));
    body.extend(sized(&extensions));

    let mut handshake = vec![0x01, 0x00];
    handshake.extend(sized(&body));
    let mut record = vec![0x16, 0x03, 0x01];
    record.extend(sized(&handshake));
    record
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &sized(content)].concat()
}

/// Content behind its length in two bytes; everything here is shorter than 64 KiB.
fn sized(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], content].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_server_hello_of_the_old_version_is_acceptance() {
        let hello = |minor| [0x16, 3, 1, 0, 80, 2, 0, 0, 76, 3, minor];
        assert!(answer_accepts(&hello(1), 0x0301));
        assert!(answer_accepts(&hello(1), 0x0302));
        assert!(answer_accepts(&hello(2), 0x0302));
        assert!(!answer_accepts(&hello(3), 0x0302));
        assert!(!answer_accepts(&[0x15, 3, 1, 0, 2, 2, 70], 0x0301));
        assert!(!answer_accepts(&[], 0x0301));
    }

    #[test]
    fn a_hello_says_its_own_lengths() {
        let hello = hello("example.org", 0x0301);
        assert_eq!(usize::from(u16::from_be_bytes([hello[3], hello[4]])), hello.len() - 5);
        assert_eq!(usize::from(u16::from_be_bytes([hello[7], hello[8]])), hello.len() - 9);
    }
}

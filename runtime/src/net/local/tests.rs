use loona_hpack::Encoder;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;
/// Flags, stream and fields.
type Asked = (u8, u32, Pairs);

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.put_uint(payload.len() as u64, 3);
    frame.put_u8(kind);
    frame.put_u8(flags);
    frame.put_u32(stream);
    frame.extend_from_slice(payload);
    frame
}

fn request<'a>(authority: &'a str, path: &'a str) -> Vec<(&'a [u8], &'a [u8])> {
    let mut request = vec![
        (&b":method"[..], &b"POST"[..]),
        (b":scheme", b"http"),
        (b":path", path.as_bytes()),
    ];
    if !authority.is_empty() {
        request.push((b":authority", authority.as_bytes()));
    }
    request.extend([(&b"content-type"[..], &b"application/grpc"[..]), (b"te", b"trailers")]);
    request
}

/// What a server reads of what a client writes in pieces of `piece` bytes.
async fn through(sent: &[u8], piece: usize) -> io::Result<Vec<u8>> {
    let (mut client, server) = UnixStream::pair().unwrap();
    let mut server = LocalStream::new(server);
    let sent = sent.to_vec();
    let write = tokio::spawn(async move {
        for piece in sent.chunks(piece) {
            // Who is refused is not read to the end.
            if client.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    });
    let mut read = Vec::new();
    let result = server.read_to_end(&mut read).await;
    drop(server);
    write.await.unwrap();
    result.map(|_| read)
}

/// The blocks of fields in what was read, and all other frames.
fn understood(read: &[u8]) -> (Vec<Asked>, Vec<Vec<u8>>) {
    let mut rest = read.strip_prefix(PREFACE).unwrap();
    let (mut decoder, mut blocks, mut others) = (Decoder::new(), Vec::new(), Vec::new());
    let mut block: Vec<u8> = Vec::new();
    while let Some((length, kind, flags)) = frame_head(rest) {
        let (whole, after) = rest.split_at(FRAME_HEAD + length);
        rest = after;
        if ![HEADERS, CONTINUATION].contains(&kind) {
            others.push(whole.to_vec());
            continue;
        }
        block.extend_from_slice(&whole[FRAME_HEAD..]);
        if flags & END_HEADERS != 0 {
            let stream = u32::from_be_bytes(whole[5..9].try_into().unwrap());
            blocks.push((flags, stream, decoder.decode(&std::mem::take(&mut block)).unwrap()));
        }
    }
    assert!(rest.is_empty());
    (blocks, others)
}

fn owned(pairs: &[(&[u8], &[u8])]) -> Pairs {
    pairs.iter().map(|(a, b)| (a.to_vec(), b.to_vec())).collect()
}

#[tokio::test]
async fn a_path_for_an_authority_is_taken_for_localhost_on_every_request_of_the_connection() {
    for authority in ["/var/lib/kubelet/reg.sock", "%2Fvar%2Flib%2Fkubelet%2Freg.sock"] {
        let mut encoder = Encoder::new();
        let mut sent = PREFACE.to_vec();
        let settings = frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]);
        sent.extend_from_slice(&settings);
        let data = frame(0, END_STREAM, 1, b"\0\0\0\0\0");
        for stream in [1, 3] {
            // The second is mostly indices into the client's table.
            let block = encoder.encode(request(authority, "/v1.Registration/GetInfo"));
            sent.extend(frame(HEADERS, END_HEADERS, stream, &block));
            sent.extend_from_slice(&data);
        }
        for piece in [1, 7, 100_000] {
            let (blocks, others) = understood(&through(&sent, piece).await.unwrap());
            let expected = owned(&request("localhost", "/v1.Registration/GetInfo"));
            let flags = END_HEADERS;
            assert_eq!(blocks, [(flags, 1, expected.clone()), (flags, 3, expected)]);
            assert_eq!(others, [settings.clone(), data.clone(), data.clone()]);
        }
    }
}

#[tokio::test]
async fn what_our_http_takes_goes_through_byte_by_byte() {
    for authority in ["", "localhost", "mintmark-server:8081"] {
        let mut sent = PREFACE.to_vec();
        let block = Encoder::new().encode(request(authority, "/a"));
        let (head, tail) = block.split_at(5);
        sent.extend(frame(HEADERS, END_STREAM, 1, head));
        sent.extend(frame(CONTINUATION, END_HEADERS, 1, tail));
        sent.extend(frame(HEADERS, END_HEADERS, 3, b"whatever is not looked at"));
        for piece in [1, 100_000] {
            assert_eq!(through(&sent, piece).await.unwrap(), sent);
        }
    }
    let other = b"GET /live HTTP/1.1\r\nHost: /a/path\r\n\r\n";
    assert_eq!(through(other, 1).await.unwrap(), other);
}

#[tokio::test]
async fn padding_priority_and_parts_are_understood() {
    let block = Encoder::new().encode(request("/a", "/b"));
    let (head, tail) = block.split_at(9);
    let padded = [&[3][..], &[0, 0, 0, 0, 16], head, &[0; 3]].concat();
    let mut sent = PREFACE.to_vec();
    sent.extend(frame(HEADERS, PADDED | PRIORITY | END_STREAM, 1, &padded));
    sent.extend(frame(CONTINUATION, END_HEADERS, 1, tail));
    let (blocks, _) = understood(&through(&sent, 3).await.unwrap());
    assert_eq!(
        blocks,
        [(END_HEADERS | END_STREAM, 1, owned(&request("localhost", "/b")))]
    );
}

#[tokio::test]
async fn a_long_block_comes_in_several_frames() {
    let long = "x".repeat(40_000);
    let mut fields = request("/a", "/b");
    fields.push((b"authorization", long.as_bytes()));
    let block = Encoder::new().encode(fields.clone());
    let mut sent = PREFACE.to_vec();
    let mut parts = block.chunks(MAX_FRAME).peekable();
    let mut kind = HEADERS;
    while let Some(part) = parts.next() {
        let last = if parts.peek().is_none() { END_HEADERS } else { 0 };
        sent.extend(frame(kind, last, 1, part));
        kind = CONTINUATION;
    }
    let (blocks, _) = understood(&through(&sent, 5_000).await.unwrap());
    fields[3].1 = b"localhost";
    assert_eq!(blocks[0].2, owned(&fields));
}

#[tokio::test]
async fn what_means_more_than_it_should_ends_the_connection() {
    let large = vec![b'x'; 4_000];
    let mut block = Encoder::new().encode(vec![(&b":authority"[..], &b"/a"[..]), (b"a", &large)]);
    // The field that was last put into the table, again and again.
    block.extend([0x80 | 62; 1_000]);
    let mut sent = PREFACE.to_vec();
    sent.extend(frame(HEADERS, END_HEADERS, 1, &block));
    let error = through(&sent, 100_000).await.unwrap_err();
    assert_eq!(error.to_string(), "a block of fields means too much");
    let mut endless = PREFACE.to_vec();
    endless.extend(frame(HEADERS, 0, 1, &[0; 10_000]));
    for _ in 0..10 {
        endless.extend(frame(CONTINUATION, 0, 1, &[0; 10_000]));
    }
    let error = through(&endless, 100_000).await.unwrap_err();
    assert_eq!(error.to_string(), "a block of fields is too long");
}

proptest! {
    #[test]
    fn whatever_comes_is_refused_or_goes_through(
        frames in proptest::collection::vec((0u8..12, any::<u8>(), 0u32..4, proptest::collection::vec(any::<u8>(), 0..60)), 0..8),
        piece in 1usize..50,
    ) {
        let mut sent = PREFACE.to_vec();
        for (kind, flags, stream, payload) in frames {
            sent.extend(frame(kind, flags, stream, &payload));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _ = runtime.block_on(through(&sent, piece));
    }
}

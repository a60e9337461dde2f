//! Callers who ask for too much.

use std::io::Write as _;
use std::os::unix::net::UnixStream;

use super::*;

/// One HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header that no table knows, or, as (index, value), one whose name HPACK's table has.
fn header(name: Result<&str, u8>, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).unwrap();
    let name = match name {
        Ok(name) => [&[0, length(name)], name.as_bytes()].concat(),
        Err(index) => vec![index],
    };
    [&name[..], &[length(value)], value.as_bytes()].concat()
}

/// A connection with so many calls of `path`, of whose messages the last byte does not come.
fn half_calls(world: &World, path: &str, calls: u32, message: usize) -> UnixStream {
    let mut socket = UnixStream::connect(world.socket()).unwrap();
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    socket.write_all(&frame(4, 0, 0, &[])).unwrap();
    // :method POST and :scheme http.
    let head = [
        vec![0x83, 0x86],
        header(Err(4), path),
        header(Err(1), "w"),
        header(Ok("content-type"), "application/grpc"),
        header(Ok("te"), "trailers"),
        header(Ok(SECURITY_HEADER), "true"),
    ]
    .concat();
    let length = u32::try_from(message + 1).unwrap().to_be_bytes();
    let body = [&[0][..], &length, &vec![0; message]].concat();
    for call in 0..calls {
        let stream = 2 * call + 1;
        socket.write_all(&frame(1, 4, stream, &head)).unwrap();
        socket.write_all(&frame(0, 0, stream, &body)).unwrap();
    }
    socket
}

/// Asks again until the answer is the wanted one.
async fn until<T>(client: &mut Client, mut wanted: impl FnMut(&Result<(), Status>) -> Option<T>) -> T {
    let ask = async {
        loop {
            let answer = client.validate("x", "a.b.c").await.map(drop);
            if let Some(found) = wanted(&answer) {
                return found;
            }
        }
    };
    tokio::time::timeout(DEADLINE, ask).await.expect("the answer in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_come_bit_by_bit_are_bounded_in_number_and_in_time() {
    let world = World::with(ServeLimits {
        streams: 10_000,
        streams_per_user: 10_000,
    });
    world.apply(Update {
        complete: true,
        ..Update::default()
    });
    let mut client = world.client().await;
    let halves: Vec<_> = (0..4)
        .map(|_| half_calls(&world, "/SpiffeWorkloadAPI/ValidateJWTSVID", 60, 500))
        .collect();
    let refused = until(&mut client, |answer| {
        let refused = answer.as_ref().err()?;
        (refused.code() == Code::Unavailable).then(|| refused.message().to_owned())
    });
    let refused = refused.await;
    assert!(
        refused.contains("128 calls of user") && refused.contains("on their way in"),
        "{refused}"
    );
    // They are given up on, although their connections stay.
    let answered = until(&mut client, |answer| {
        world.server.clock.advance(Duration::from_secs(1));
        (answer.as_ref().err()?.code() == Code::PermissionDenied).then_some(())
    });
    answered.await;
    drop(halves);
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_about_the_attestor_itself_count_like_calls() {
    let world = World::with(ServeLimits {
        streams: 10,
        streams_per_user: 4,
    });
    world.apply(Update {
        complete: true,
        ..Update::default()
    });
    let mut client = world.client().await;
    let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let mut halves = Vec::new();
    let refused = until(&mut client, |answer| {
        // One more each time: whoever asks has a place meanwhile, too.
        halves.push(half_calls(&world, reflection, 1, 10));
        let refused = answer.as_ref().err()?;
        (refused.code() == Code::Unavailable).then(|| refused.message().to_owned())
    });
    let refused = refused.await;
    assert!(
        refused.contains("4 calls of user") && refused.contains("are under way"),
        "{refused}"
    );
    // Their places are free when the connection is gone.
    drop(halves);
    until(&mut client, |answer| {
        (answer.as_ref().err()?.code() == Code::PermissionDenied).then_some(())
    })
    .await;
}

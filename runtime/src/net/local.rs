//! Connections of a Unix socket, made to say what HTTP/2 wants.
//!
//! A URI has no place for a socket's path, and clients put different things where HTTP/2 has `:authority`: Go's gRPC and others the path, as it is or percent-encoded. Our HTTP/2
//! refuses what is no host, so the kubelet could not register a plugin, and Python and Java no client of the Workload API (hyperium/h2#487). Nothing here looks at the authority: a Unix socket has
//! one. So when the first request names one that is none, that request and all that follow on the connection are read, and say `localhost`; a client that names none, or one that can be, costs
//! a look at its first request.

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::uri::Authority;
use loona_hpack::Decoder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tonic::transport::server::{Connected, UdsConnectInfo};

/// A client's connection begins with these bytes (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length (3 bytes), type, flags, stream (4 bytes).
const FRAME_HEAD: usize = 9;
/// No frame is longer, as long as the server does not offer more (RFC 9113 §6.5.2).
const MAX_FRAME: usize = 16 << 10;
/// The fields of one request are no longer than this, as they come and as they are meant.
const MAX_FIELDS: usize = 64 << 10;
/// Read at once.
const READ: usize = 8 << 10;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// An accepted connection of a Unix socket.
pub struct LocalStream {
    io: UnixStream,
    rewrite: Option<Box<Rewrite>>,
    /// What has been read from `io` and can be given out.
    ready: BytesMut,
}

/// The client's part of the connection, until it is known that nothing is to be changed.
struct Rewrite {
    /// Read, and not understood yet.
    read: BytesMut,
    is_begun: bool,
    /// So many bytes of the present frame's payload go through as they are.
    through: usize,
    /// The frames of the fields that are being read, as they came.
    block: Option<Block>,
    decoder: Decoder<'static>,
    /// The first request has been seen, and named an authority that is none.
    is_needed: bool,
}

struct Block {
    stream: [u8; 4],
    ends_stream: bool,
    fields: BytesMut,
    as_it_came: BytesMut,
}

impl LocalStream {
    pub(super) fn new(io: UnixStream) -> Self {
        let rewrite = Rewrite {
            read: BytesMut::new(),
            is_begun: false,
            through: 0,
            block: None,
            decoder: Decoder::new(),
            is_needed: false,
        };
        Self {
            io,
            rewrite: Some(Box::new(rewrite)),
            ready: BytesMut::new(),
        }
    }
}

impl Deref for LocalStream {
    type Target = UnixStream;

    fn deref(&self) -> &UnixStream {
        &self.io
    }
}

impl AsFd for LocalStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.as_fd()
    }
}

impl Rewrite {
    /// Takes what can be understood of what was read, and puts it into `ready`. True when all further bytes can go through as they are.
    fn step(&mut self, ready: &mut BytesMut) -> io::Result<bool> {
        if !self.is_begun {
            let begun = self.read.len().min(PREFACE.len());
            if self.read[..begun] != PREFACE[..begun] {
                return Ok(true);
            }
            if begun < PREFACE.len() {
                return Ok(false);
            }
            ready.put(self.read.split_to(begun));
            self.is_begun = true;
        }
        loop {
            let through = self.through.min(self.read.len());
            ready.put(self.read.split_to(through));
            self.through -= through;
            let Some((length, kind, flags)) = frame_head(&self.read) else {
                return Ok(false);
            };
            if self.through > 0 {
                return Ok(false);
            }
            match (kind, &self.block) {
                (HEADERS, None) | (CONTINUATION, Some(_)) => {}
                // Between the frames of one block nothing else may come: that is for the server to say.
                (_, Some(_)) => return Err(invalid("a block of fields is interrupted")),
                (_, None) => {
                    self.through = FRAME_HEAD + length;
                    continue;
                }
            }
            if length > MAX_FRAME {
                return Err(invalid("a frame is too long"));
            }
            if self.read.len() < FRAME_HEAD + length {
                return Ok(false);
            }
            let frame = self.read.split_to(FRAME_HEAD + length).freeze();
            if self.fields(&frame, kind, flags, ready)? {
                return Ok(true);
            }
        }
    }

    /// One frame of fields. True when nothing is to be changed on this connection.
    fn fields(&mut self, frame: &Bytes, kind: u8, flags: u8, ready: &mut BytesMut) -> io::Result<bool> {
        let mut payload = frame.slice(FRAME_HEAD..);
        if kind == HEADERS {
            let padding = match flags & PADDED {
                0 => 0,
                _ => usize::from(payload.try_get_u8().map_err(|_| invalid("a frame is too short"))?),
            };
            let priority = if flags & PRIORITY == 0 { 0 } else { 5 };
            let end = payload.len().checked_sub(padding).filter(|end| *end >= priority);
            let end = end.ok_or_else(|| invalid("a frame is too short"))?;
            payload = payload.slice(priority..end);
        }
        let block = self.block.get_or_insert_with(|| Block {
            stream: [frame[5], frame[6], frame[7], frame[8]],
            ends_stream: flags & END_STREAM != 0,
            fields: BytesMut::new(),
            as_it_came: BytesMut::new(),
        });
        block.fields.put(payload);
        block.as_it_came.extend_from_slice(frame);
        if block.as_it_came.len() > MAX_FIELDS {
            return Err(invalid("a block of fields is too long"));
        }
        if flags & END_HEADERS == 0 {
            return Ok(false);
        }
        let Some(block) = self.block.take() else {
            return Ok(false);
        };
        let read = self.decode(&block.fields)?;
        self.is_needed |= !read.is_fit;
        match self.is_needed {
            true => block.write(&read.fields, ready),
            false => ready.put(block.as_it_came),
        }
        Ok(!self.is_needed)
    }

    /// Reads a block of fields, and writes it in the simplest form, with `localhost` for an authority.
    fn decode(&mut self, block: &[u8]) -> io::Result<Fields> {
        let mut read = Fields {
            fields: BytesMut::with_capacity(block.len() + 64),
            is_fit: true,
        };
        let decoded = self.decoder.decode_with_cb(block, |name, value| {
            let is_authority = *name == *b":authority";
            if is_authority && Authority::try_from(&*value).is_err() {
                read.is_fit = false;
            }
            let value = if is_authority { &b"localhost"[..] } else { &value };
            // What a small block can stand for, when it names large fields again and again, has no bound.
            if read.fields.len() <= MAX_FIELDS {
                read.fields.put_u8(0);
                put_text(&mut read.fields, &name);
                put_text(&mut read.fields, value);
            }
        });
        decoded.map_err(|_| invalid("a block of fields cannot be read"))?;
        match read.fields.len() <= MAX_FIELDS {
            true => Ok(read),
            false => Err(invalid("a block of fields means too much")),
        }
    }
}

/// A block of fields as it is meant.
struct Fields {
    fields: BytesMut,
    /// Its authority is one, or it names none.
    is_fit: bool,
}

impl Block {
    fn write(self, fields: &[u8], ready: &mut BytesMut) {
        let count = fields.len().div_ceil(MAX_FRAME).max(1);
        let mut parts = fields.chunks(MAX_FRAME);
        for number in 0..count {
            let part = parts.next().unwrap_or_default();
            let (kind, first) = match number {
                0 => (HEADERS, if self.ends_stream { END_STREAM } else { 0 }),
                _ => (CONTINUATION, 0),
            };
            let last = if number + 1 == count { END_HEADERS } else { 0 };
            ready.put_uint(part.len() as u64, 3);
            ready.put_u8(kind);
            ready.put_u8(first | last);
            ready.extend_from_slice(&self.stream);
            ready.extend_from_slice(part);
        }
    }
}

/// A text without compression (RFC 7541 §5.2).
fn put_text(block: &mut BytesMut, text: &[u8]) {
    let mut length = text.len();
    if length < 127 {
        block.put_u8(length.to_le_bytes()[0]);
    } else {
        block.put_u8(127);
        length -= 127;
        while length >= 128 {
            block.put_u8(length.to_le_bytes()[0] | 128);
            length >>= 7;
        }
        block.put_u8(length.to_le_bytes()[0]);
    }
    block.extend_from_slice(text);
}

/// Length of the payload, type and flags of the frame at the front.
fn frame_head(read: &[u8]) -> Option<(usize, u8, u8)> {
    let head = read.first_chunk::<FRAME_HEAD>()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    Some((usize::try_from(length).ok()?, head[3], head[4]))
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl AsyncRead for LocalStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.ready.is_empty() {
                let count = this.ready.len().min(buf.remaining());
                buf.put_slice(&this.ready.split_to(count));
                if this.ready.is_empty() {
                    // Its room is not kept for a connection that idles.
                    this.ready = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            let Some(rewrite) = &mut this.rewrite else {
                return Pin::new(&mut this.io).poll_read(cx, buf);
            };
            let mut space = [0; READ];
            let mut space = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut space))?;
            if space.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            rewrite.read.extend_from_slice(space.filled());
            if rewrite.step(&mut this.ready)? {
                this.ready.put(std::mem::take(&mut rewrite.read));
                this.rewrite = None;
            }
        }
    }
}

impl AsyncWrite for LocalStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

impl Connected for LocalStream {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> UdsConnectInfo {
        self.io.connect_info()
    }
}

impl std::fmt::Debug for LocalStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.io.fmt(f)
    }
}

#[cfg(test)]
mod tests;

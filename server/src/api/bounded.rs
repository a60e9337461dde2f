//! A request's body of which no more is read than it may have.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

/// Ends with an error where it grows too long.
pub(super) struct Bounded {
    body: Body,
    limit: usize,
    left: usize,
}

impl Bounded {
    pub(super) fn wrap(body: Body, limit: usize) -> Body {
        Body::new(Self {
            body,
            limit,
            left: limit,
        })
    }
}

impl http_body::Body for Bounded {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            let length = frame.data_ref().map_or(0, |data| data.len());
            match self.left.checked_sub(length) {
                Some(left) => self.left = left,
                None => {
                    let limit = self.limit;
                    let message = format!("this method takes no more than {limit} bytes");
                    return Poll::Ready(Some(Err(Status::out_of_range(message))));
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

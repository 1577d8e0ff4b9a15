//! Request bodies that nobody reads to their end.
//!
//! actix closes a connection after an answer if the request's body is still arriving and has not
//! been dropped. If it has been dropped, actix waits for the end of a chunked body instead, however
//! long that takes. So the body of every request is kept until its answer is written.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::HttpMessage as _;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::http::header;
use actix_web::web::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::time::timeout;

/// The maximum that is read of a body that nobody needs.
const SKIMMED_BYTES_MAX: usize = 8 * 1024;
const SKIM_MAX: Duration = Duration::from_millis(20);

/// A request's body, shared by its reader and by the answer that keeps it.
#[derive(Clone)]
pub struct KeptBody(Rc<RefCell<State>>);

struct State {
    payload: Payload,
    ended: bool,
}

impl KeptBody {
    /// Takes the body from `request`, and leaves a stream in its place that reads it; `None` if
    /// there is no body.
    pub fn of(request: &mut ServiceRequest) -> Option<Self> {
        let headers = request.headers();
        if !headers.contains_key(header::TRANSFER_ENCODING)
            && !headers.contains_key(header::CONTENT_LENGTH)
        {
            return None;
        }
        let payload = request.take_payload();
        let kept = Self(Rc::new(RefCell::new(State { payload, ended: false })));
        request.set_payload(Payload::Stream { payload: Box::pin(kept.clone()) });
        Some(kept)
    }

    /// Reads an unread body to its end, if it is small and arrives within a moment. Then the
    /// connection can be kept, even for callers that are refused before their body is read.
    pub async fn skim(&mut self) {
        let reading = async {
            let mut left = SKIMMED_BYTES_MAX;
            while let Some(Ok(chunk)) = self.next().await {
                left = left.saturating_sub(chunk.len());
                if left == 0 {
                    return;
                }
            }
        };
        // If this takes too long, the connection is closed after the answer.
        let _ = timeout(SKIM_MAX, reading).await;
    }

    pub fn has_ended(&self) -> bool {
        self.0.borrow().ended
    }

    /// Keeps a body that was not read to its end until `response` is written.
    pub fn keep_for(self, response: ServiceResponse) -> ServiceResponse {
        if self.has_ended() {
            return response;
        }
        response.map_body(|_head, body| BoxBody::new(LastWord { body, _unread: self }))
    }
}

impl Stream for KeptBody {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.0.borrow_mut();
        let polled = Pin::new(&mut state.payload).poll_next(context);
        state.ended |= matches!(polled, Poll::Ready(None));
        polled
    }
}

/// The body of an answer that may be the last one on its connection.
struct LastWord {
    body: BoxBody,
    _unread: KeptBody,
}

impl MessageBody for LastWord {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(context)
    }
}

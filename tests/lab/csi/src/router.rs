//! From the path of a call to the function that answers it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use prost::Message;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::error::Error;

/// The services that a socket offers.
#[derive(Clone, Default)]
pub(crate) struct Router {
    methods: HashMap<&'static str, Arc<Method>>,
}

type Answer = Pin<Box<dyn Future<Output = http::Response<Body>> + Send>>;
type Method = dyn Fn(http::Request<Body>) -> Answer + Send + Sync;

impl Router {
    /// Has calls of `path` (`/package.Service/Method`) answered by `answer`, on a thread that may block.
    pub(crate) fn method<I, O, F>(mut self, path: &'static str, answer: F) -> Self
    where
        I: Message + Default + 'static,
        O: Message + Default + 'static,
        F: Fn(I) -> Result<O, Error> + Clone + Send + Sync + 'static,
    {
        let method = move |request: http::Request<Body>| -> Answer {
            let call = Call { path, answer: answer.clone(), types: PhantomData };
            Box::pin(async move { Grpc::new(ProstCodec::<O, I>::default()).unary(call, request).await })
        };
        self.methods.insert(path, Arc::new(method));
        self
    }
}

impl Service<http::Request<Body>> for Router {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Some(method) = self.methods.get(request.uri().path()) else {
            let unknown: Ready<Result<_, Infallible>> = ready(Ok(Status::unimplemented("no such call").into_http()));
            return Box::pin(unknown);
        };
        let answer = method(request);
        Box::pin(async move { Ok(answer.await) })
    }
}

/// One call of a method.
struct Call<I, O, F> {
    path: &'static str,
    answer: F,
    types: PhantomData<fn(I) -> O>,
}

impl<I, O, F> UnaryService<I> for Call<I, O, F>
where
    I: Message + 'static,
    O: Message + 'static,
    F: Fn(I) -> Result<O, Error> + Clone + Send + 'static,
{
    type Response = O;
    type Future = BoxFuture<Response<O>, Status>;

    fn call(&mut self, request: Request<I>) -> Self::Future {
        let (path, answer) = (self.path, self.answer.clone());
        let task = tokio::task::spawn_blocking(move || {
            tracing::debug!(path, "called");
            answer(request.into_inner())
        });
        Box::pin(async move {
            let answered = task.await.map_err(|error| Status::internal(error.to_string()))?;
            let answered = answered.map_err(Status::from);
            match &answered {
                Ok(_) => tracing::info!(path, "answered"),
                Err(status) => tracing::warn!(path, code = ?status.code(), why = status.message(), "refused"),
            }
            answered.map(Response::new)
        })
    }
}

//! HTTP: whether the daemon lives and is ready, its metrics, and what it knows of a user.
//!
//! Before it, the threads write their status and answer questions; after it, service managers, Prometheus, the command line and people.
//! It listens on the configured address alone and changes nothing.
//!
//! | path | what |
//! |---|---|
//! | `/livez` | 200 while the process answers |
//! | `/readyz` | 200 or 503, with the reasons as JSON |
//! | `/metrics` | Prometheus text |
//! | `/status` | each worker and its partitions |
//! | `/fleet` | what the instances announced |
//! | `/owner/{user}` | which instance owns the user |
//! | `/explain/{request}` | what was published and logged for a request; `?best=n` (3) or `?item=id` say which candidates |
//! | `/users/{user}` | what is known of the user, or 307 to the owner; `?entries=n` bounds each slot (100) |

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use headwater_consumers::partitioner::partition_of;
use prometheus::TextEncoder;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::daemon::{Answer, Inner, Question, StopError};
use crate::explain::{Explanation, Selection};
use crate::fleet;
use crate::supervisor::{Phase, Stopping};

mod connections;

use connections::Bounded;

/// How long a question may wait for its worker, which may be waiting for the brokers.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long open requests may go on when everything else has ended.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// Entries of each slot that `/users` shows unless it is asked for more.
const ENTRIES: usize = 100;
/// Candidates that `/explain` shows unless it is asked for more.
const BEST: usize = 3;

/// Serves until the daemon has ended.
pub(crate) fn serve(
    inner: &Arc<Inner>,
    listener: &TcpListener,
    stopping: &Stopping,
) -> Result<(), StopError> {
    let failed = |source| StopError::Runtime { source };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let mut phase = stopping.watch();
    let served = runtime.block_on(async {
        let listener = listener.try_clone().map_err(failed)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
        let listener = Bounded::new(listener);
        let mut ended = phase.clone();
        let closing = async move {
            // The supervisor outlives its threads; were it gone, it would be time to end.
            drop(ended.wait_for(|phase| *phase == Phase::Ended).await);
        };
        let serving =
            axum::serve(listener, routes(Arc::clone(inner))).with_graceful_shutdown(closing);
        let overdue = async {
            drop(phase.wait_for(|phase| *phase == Phase::Ended).await);
            tokio::time::sleep(CLOSE_WITHIN).await;
        };
        let mut serving = std::pin::pin!(serving.into_future());
        let mut overdue = std::pin::pin!(overdue);
        std::future::poll_fn(|context| {
            if let std::task::Poll::Ready(served) = serving.as_mut().poll(context) {
                return std::task::Poll::Ready(served.map_err(failed));
            }
            overdue.as_mut().poll(context).map(Ok)
        })
        .await
    });
    // A topic that is being read for somebody is not waited for.
    runtime.shutdown_timeout(CLOSE_WITHIN);
    served
}

fn routes(inner: Arc<Inner>) -> Router {
    Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route(
            "/status",
            get(async |State(inner): State<Arc<Inner>>| answer(StatusCode::OK, &inner.status())),
        )
        .route(
            "/fleet",
            get(async |State(inner): State<Arc<Inner>>| answer(StatusCode::OK, &inner.fleet.all())),
        )
        .route("/explain/{request}", get(explain))
        .route("/owner/{user}", get(owner))
        .route("/users/{user}", get(user))
        .fallback(async || {
            fault(
                StatusCode::NOT_FOUND,
                "no such path; see docs/operating/http.md",
            )
        })
        .with_state(inner)
}

fn answer<T: Serialize>(status: StatusCode, body: &T) -> Response {
    let mut text = serde_json::to_string(body).expect("invariant: our answers are plain JSON");
    text.push('\n');
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

fn fault(status: StatusCode, reason: &str) -> Response {
    answer(status, &json!({ "error": reason }))
}

/// What a request says in its path or query; where it cannot be read, that is answered as all else is.
struct Asked<E>(E);

impl<S, E> FromRequestParts<S> for Asked<E>
where
    S: Send + Sync,
    E: FromRequestParts<S, Rejection: IntoResponse + std::error::Error>,
{
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match E::from_request_parts(parts, state).await {
            Ok(asked) => Ok(Self(asked)),
            Err(rejection) => {
                let words = headwater_consumers::words(&rejection);
                Err(fault(rejection.into_response().status(), &words))
            }
        }
    }
}

async fn readyz(State(inner): State<Arc<Inner>>) -> Response {
    let readiness = inner.readiness();
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    answer(status, &readiness)
}

async fn metrics(State(inner): State<Arc<Inner>>) -> Response {
    inner.readiness();
    match TextEncoder::new().encode_to_string(&inner.registry.gather()) {
        Ok(text) => {
            let form = "text/plain; version=0.0.4; charset=utf-8";
            (StatusCode::OK, [(header::CONTENT_TYPE, form)], text).into_response()
        }
        Err(error) => fault(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

async fn owner(
    State(inner): State<Arc<Inner>>,
    Asked(Path(user)): Asked<Path<String>>,
) -> Response {
    let partition = partition_of(user.as_bytes(), inner.found.partitions);
    match inner.fleet.owner(partition, fleet::now()) {
        Some(owner) => answer(
            StatusCode::OK,
            &json!({
                "user_id": user,
                "here": owner.instance == inner.identity.instance,
                "owner": owner,
            }),
        ),
        None => nobody(partition),
    }
}

fn nobody(partition: i32) -> Response {
    let reason = format!(
        "no instance has announced partition {partition} lately: it may be on its way from one to another"
    );
    answer(
        StatusCode::SERVICE_UNAVAILABLE,
        &json!({ "error": reason, "partition": partition }),
    )
}

#[derive(Deserialize)]
struct ExplainQuery {
    best: Option<usize>,
    item: Option<String>,
}

async fn explain(
    State(inner): State<Arc<Inner>>,
    Asked(Path(request)): Asked<Path<String>>,
    Asked(Query(query)): Asked<Query<ExplainQuery>>,
) -> Response {
    let selection = Selection {
        items: query.item.into_iter().collect(),
        best: query.best.unwrap_or(BEST),
    };
    // Reading topics is work of seconds: one at a time, beside the one thread that answers all others.
    let Ok(_only) = inner.explaining.try_lock() else {
        return fault(
            StatusCode::SERVICE_UNAVAILABLE,
            "another request is being explained; try again",
        );
    };
    let looking = Arc::clone(&inner);
    let found = tokio::task::spawn_blocking(move || {
        crate::explain::find(&looking.config, &*looking.log, &request, &selection)
            .map(|explanation| explanation.found().ok_or(request))
    });
    match found.await {
        Ok(Ok(Ok(explanation))) => answer(StatusCode::OK, &explanation),
        Ok(Ok(Err(request))) => fault(StatusCode::NOT_FOUND, &Explanation::missing(&request)),
        Ok(Err(error)) => fault(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
        Err(error) => fault(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

#[derive(Deserialize)]
struct UserQuery {
    entries: Option<usize>,
}

async fn user(
    State(inner): State<Arc<Inner>>,
    Asked(Path(user)): Asked<Path<String>>,
    Asked(Query(query)): Asked<Query<UserQuery>>,
    uri: Uri,
) -> Response {
    let partition = partition_of(user.as_bytes(), inner.found.partitions);
    let status = inner.status();
    let worker = status
        .workers
        .iter()
        .find(|worker| worker.working.contains(&partition));
    if let Some(worker) = worker {
        let entries_max = query.entries.unwrap_or(ENTRIES);
        match ask(&inner, worker.number, partition, &user, entries_max).await {
            Ok(Answer::User(view)) => return answer(StatusCode::OK, &view),
            Ok(Answer::Nobody) => {
                let known =
                    json!({ "error": "nothing is known of this user", "partition": partition });
                return answer(StatusCode::NOT_FOUND, &known);
            }
            Ok(Answer::Failed(reason)) => return fault(StatusCode::INTERNAL_SERVER_ERROR, &reason),
            // It has just moved, or is being restored again.
            Ok(Answer::NotHere) => {}
            Err(refusal) => return refusal,
        }
    }
    if status.restoring().any(|restoring| restoring == partition) {
        let reason = format!("partition {partition} is being restored here");
        return fault(StatusCode::SERVICE_UNAVAILABLE, &reason);
    }
    match inner.fleet.owner(partition, fleet::now()) {
        Some(owner) if owner.instance != inner.identity.instance => match &owner.address {
            Some(address) => {
                let target = uri.path_and_query().map_or("/", |target| target.as_str());
                let location: (HeaderName, String) =
                    (header::LOCATION, format!("http://{address}{target}"));
                let body = answer(
                    StatusCode::TEMPORARY_REDIRECT,
                    &json!({ "user_id": user, "owner": owner }),
                );
                ([location], body).into_response()
            }
            None => answer(
                StatusCode::MISDIRECTED_REQUEST,
                &json!({ "user_id": user, "owner": owner }),
            ),
        },
        Some(_) | None => nobody(partition),
    }
}

async fn ask(
    inner: &Inner,
    worker: usize,
    partition: i32,
    user: &str,
    entries_max: usize,
) -> Result<Answer, Response> {
    let (answer, answered) = tokio::sync::oneshot::channel();
    let question = Question {
        partition,
        user: user.to_owned(),
        entries_max,
        answer,
    };
    let busy = |reason| fault(StatusCode::SERVICE_UNAVAILABLE, reason);
    let asked = inner
        .questions
        .get(worker)
        .map(|worker| worker.try_send(question));
    if !matches!(asked, Some(Ok(()))) {
        return Err(busy("too many questions at once; try again"));
    }
    match tokio::time::timeout(ANSWER_WITHIN, answered).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(busy("the worker has ended")),
        Err(_) => Err(fault(
            StatusCode::GATEWAY_TIMEOUT,
            "the worker is waiting for something else; see /readyz",
        )),
    }
}

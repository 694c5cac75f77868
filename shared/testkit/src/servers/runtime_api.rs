//! The Lambda Runtime API on loopback: starts a function's program as Lambda does, hands it
//! events one at a time, and returns what it answers.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path as InPath, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use ulid::Ulid;

/// How long a function may take to start, as on Lambda.
const START: Duration = Duration::from_secs(10);

/// How long an invocation may take: as long as the gateway waits.
const INVOCATION: Duration = Duration::from_secs(30);

/// The largest answer that Lambda accepts.
const ANSWER_BYTES: usize = 6 * 1024 * 1024;

/// A running function. Its process ends when this is dropped.
#[derive(Debug)]
pub struct Function {
    child: tokio::sync::Mutex<Child>,
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
    cold_start: Duration,
}

/// A function that ended instead of asking for events.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` when a signal ended it, or it was still starting after 10 s.
    pub code: Option<i32>,
    pub log: String,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<Api>,
    /// There is an event, or the function has asked for one.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Api {
    /// When it asked for the first event.
    polled: Option<Instant>,
    events: VecDeque<(String, Bytes)>,
    running: Option<(String, oneshot::Sender<Result<Value, Value>>)>,
    log: String,
}

impl Function {
    /// Starts `program` with nothing in its environment but `environment` and what Lambda sets,
    /// and waits until it asks for an event.
    ///
    /// # Errors
    /// [`Ended`] when the program ends before that.
    ///
    /// # Panics
    /// When the program cannot be started at all, or loopback has no port.
    pub async fn start(program: &Path, environment: &[(&str, &str)]) -> Result<Self, Ended> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port of loopback");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared::default());
        let api = serve(listener, Arc::clone(&shared));
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let began = Instant::now();
        let mut child = Command::new(program)
            .env_clear()
            .envs(environment.iter().copied())
            .envs([
                ("AWS_LAMBDA_RUNTIME_API", address.to_string().as_str()),
                ("AWS_LAMBDA_FUNCTION_NAME", &name),
                ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
                ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
                ("AWS_LAMBDA_LOG_GROUP_NAME", &format!("/aws/lambda/{name}")),
                ("AWS_LAMBDA_LOG_STREAM_NAME", "loopback"),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let logs = [
            out.map(|out| listen(out, Arc::clone(&shared))),
            err.map(|err| listen(err, Arc::clone(&shared))),
        ];
        let mut tasks: Vec<_> = logs.into_iter().flatten().collect();
        let polled = async {
            loop {
                let changed = shared.changed.notified();
                if let Some(polled) = shared.lock().polled {
                    return polled;
                }
                changed.await;
            }
        };
        let (polled, code) = tokio::select! {
            polled = tokio::time::timeout(START, polled) => (polled.ok(), None),
            status = child.wait() => (None, status.ok().and_then(|status| status.code())),
        };
        let Some(polled) = polled else {
            drop(child.start_kill());
            for log in &mut tasks {
                // Its output ends with it, unless a process that it started is left.
                drop(tokio::time::timeout(Duration::from_secs(2), log).await);
            }
            api.abort();
            return Err(Ended { code, log: shared.lock().log.clone() });
        };
        tasks.push(api);
        let cold_start = polled.duration_since(began);
        Ok(Self { child: tokio::sync::Mutex::new(child), shared, tasks, cold_start })
    }

    /// How long it took from its start until it asked for the first event.
    pub fn cold_start(&self) -> Duration {
        self.cold_start
    }

    pub async fn pid(&self) -> Option<u32> {
        self.child.lock().await.id()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.shared.lock().log.clone()
    }

    /// Hands it an event and waits for the answer. Several at once take turns, as in one sandbox.
    ///
    /// # Errors
    /// What Lambda would report: `errorType` and `errorMessage` of a failed invocation, of a
    /// function that ended, of one that took over 30 s, or of an answer over 6 MB.
    pub async fn invoke(&self, event: &Value) -> Result<Value, Value> {
        let mut child = self.child.lock().await;
        let (sender, answer) = oneshot::channel();
        let id = Ulid::generate().to_string();
        {
            let mut state = self.shared.lock();
            state.running = Some((id.clone(), sender));
            state.events.push_back((id, Bytes::from(event.to_string())));
        }
        self.shared.changed.notify_waiters();
        let answer = tokio::select! {
            answer = answer => answer.unwrap_or_else(|_| Err(failure("Lost", "no answer"))),
            ended = child.wait() => Err(exited(ended)),
            () = tokio::time::sleep(INVOCATION) => {
                Err(failure("Sandbox.Timedout", "the function took over 30 s"))
            }
        };
        self.shared.lock().running = None;
        answer
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "the function ended with code {code}: {}", self.log),
            None => write!(f, "the function did not start: {}", self.log),
        }
    }
}

impl std::error::Error for Ended {}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Api> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answered(&self, id: &str, answer: Result<Value, Value>) -> StatusCode {
        match self.lock().running.take_if(|(running, _)| running == id) {
            Some((_, waiting)) => {
                drop(waiting.send(answer));
                StatusCode::ACCEPTED
            }
            None => StatusCode::BAD_REQUEST,
        }
    }
}

fn serve(listener: TcpListener, shared: Arc<Shared>) -> JoinHandle<()> {
    let api = Router::new()
        .route("/2018-06-01/runtime/invocation/next", get(next))
        .route("/2018-06-01/runtime/invocation/{id}/response", post(response))
        .route("/2018-06-01/runtime/invocation/{id}/error", post(error))
        .layer(DefaultBodyLimit::max(4 * ANSWER_BYTES))
        .with_state(shared);
    tokio::spawn(async move {
        // It ends when the function is dropped.
        drop(axum::serve(listener, api).await);
    })
}

async fn next(State(shared): State<Arc<Shared>>) -> Response {
    loop {
        let changed = shared.changed.notified();
        let event = {
            let mut state = shared.lock();
            if state.polled.is_none() {
                state.polled = Some(Instant::now());
                shared.changed.notify_waiters();
            }
            state.events.pop_front()
        };
        let Some((id, event)) = event else {
            changed.await;
            continue;
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let deadline = (now + INVOCATION).as_millis().to_string();
        let headers = [
            ("content-type", "application/json"),
            ("lambda-runtime-aws-request-id", &id),
            ("lambda-runtime-deadline-ms", &deadline),
            (
                "lambda-runtime-invoked-function-arn",
                "arn:aws:lambda:us-east-1:123456789012:function:loopback",
            ),
            (
                "lambda-runtime-trace-id",
                "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=0",
            ),
        ];
        return (headers, event).into_response();
    }
}

async fn response(
    State(shared): State<Arc<Shared>>,
    InPath(id): InPath<String>,
    body: Bytes,
) -> StatusCode {
    if body.len() > ANSWER_BYTES {
        let message = format!("the answer has {} bytes", body.len());
        shared.answered(&id, Err(failure("Function.ResponseSizeTooLarge", &message)));
        return StatusCode::PAYLOAD_TOO_LARGE;
    }
    let answer = serde_json::from_slice(&body);
    shared.answered(&id, answer.map_err(|e| failure("Runtime.InvalidJson", &e.to_string())))
}

async fn error(
    State(shared): State<Arc<Shared>>,
    InPath(id): InPath<String>,
    body: Bytes,
) -> StatusCode {
    let error = serde_json::from_slice(&body);
    let error = error.unwrap_or_else(|_| failure("Unknown", &String::from_utf8_lossy(&body)));
    shared.answered(&id, Err(error))
}

/// Keeps what is written, line by line.
fn listen(output: impl AsyncRead + Send + Unpin + 'static, shared: Arc<Shared>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut lines = BufReader::new(output).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let mut state = shared.lock();
            state.log.push_str(&line);
            state.log.push('\n');
        }
    })
}

fn exited(status: io::Result<ExitStatus>) -> Value {
    let what = status.map_or_else(|error| error.to_string(), |status| status.to_string());
    failure("Runtime.ExitError", &what)
}

fn failure(kind: &str, message: &str) -> Value {
    json!({ "errorType": kind, "errorMessage": message })
}

//! One request through `git http-backend`, streamed in both directions.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::Response;
use futures_util::StreamExt;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::USER;
use super::command::{clean, git};

/// Where `git http-backend` is.
fn backend() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        let folder = git(Path::new("/"), &["--exec-path"]);
        let path = Path::new(&folder).join("git-http-backend");
        assert!(path.exists(), "{} is missing; install git with its http-backend", path.display());
        path
    })
}

/// Answers one request. `variables` are in the environment of the repository's hooks.
pub(crate) async fn run(
    root: &Path,
    request: Request,
    variables: &[(&str, &OsStr)],
) -> Result<Response> {
    let mut command = command(root, &request);
    command.envs(variables.iter().copied());
    let mut child = command.spawn().context("cannot start git http-backend")?;
    let stdin = child.stdin.take().context("git http-backend has no stdin")?;
    let stdout = child.stdout.take().context("git http-backend has no stdout")?;
    tokio::spawn(feed(stdin, request.into_body()));
    respond(child, BufReader::with_capacity(64 << 10, stdout)).await
}

/// The backend, with the request in its environment as CGI has it.
fn command(root: &Path, request: &Request) -> Command {
    let mut command = Command::from(clean(backend().as_os_str()));
    let header = |name| {
        let value = request.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    command
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", request.method().as_str())
        .env("PATH_INFO", request.uri().path())
        .env("QUERY_STRING", request.uri().query().unwrap_or_default())
        .env("CONTENT_TYPE", header(CONTENT_TYPE))
        .env("HTTP_CONTENT_ENCODING", header(CONTENT_ENCODING))
        .env("REMOTE_USER", USER)
        .env("REMOTE_ADDR", "127.0.0.1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    // A chunked request has no length; the backend then reads to its end.
    let length = header(CONTENT_LENGTH);
    if !length.is_empty() {
        command.env("CONTENT_LENGTH", length);
    }
    command
}

/// Copies the request's body. A backend that has read enough closes its end.
async fn feed(mut stdin: ChildStdin, body: Body) {
    let mut pieces = body.into_data_stream();
    while let Some(Ok(piece)) = pieces.next().await {
        if stdin.write_all(&piece).await.is_err() {
            return;
        }
    }
}

async fn respond(child: Child, mut stdout: BufReader<ChildStdout>) -> Result<Response> {
    let mut response = Response::builder();
    loop {
        let mut line = String::new();
        if stdout.read_line(&mut line).await? == 0 {
            bail!("git http-backend ended before its headers did");
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ").context("git http-backend sent no header")?;
        response = match name {
            "Status" => response.status(value.split(' ').next().unwrap_or_default()),
            _ => response.header(name, value),
        };
    }
    // The child goes along, so that it is killed when the client goes away.
    let pieces = futures_util::stream::unfold((child, stdout), |(mut child, mut stdout)| async {
        let mut piece = vec![0; 64 << 10];
        match stdout.read(&mut piece).await {
            Ok(0) => {
                let _ = child.wait().await;
                None
            }
            Ok(read) => {
                piece.truncate(read);
                Some((Ok(piece), (child, stdout)))
            }
            Err(error) => Some((Err(error), (child, stdout))),
        }
    });
    Ok(response.body(Body::from_stream(pieces))?)
}

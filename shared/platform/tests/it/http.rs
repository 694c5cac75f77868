//! The HTTP client against a server that answers wrongly.

use std::time::{Duration, Instant};

use rdev_domain::ports::{PortError, PortResult};
use rdev_domain::secret::Secret;
use rdev_domain::token::Token;
use rdev_platform::http::{Answer, Auth, Http, MAX_BODY};
use rdev_testkit::servers::faults::{Fault, Server};
use reqwest::Method;
use serde_json::{Value, json};

rdev_testkit::trials! {
    async a_token_stands_in_the_header_that_the_system_wants_and_nowhere_else;
    async an_error_that_repeats_the_token_has_it_taken_out;
    async a_redirect_is_not_followed_and_its_target_sees_nothing;
    async an_answer_is_read_up_to_16_mib;
    async after_a_429_nothing_is_sent_until_its_time_has_come;
    async what_goes_wrong_on_the_way_has_its_kind;
    async a_name_that_would_change_the_path_is_not_sent;
    fn a_base_url_has_no_credentials_query_or_fragment;
}

const TOKEN: &str = "tok-3b5d7c";

fn client(server: &Server, auth: Auth) -> Http {
    patient(server, auth, Duration::from_secs(30))
}

fn patient(server: &Server, auth: Auth, timeout: Duration) -> Http {
    let token = Token::known(Secret::new(TOKEN));
    let base = format!("{}/api", server.url());
    Http::new("the system", &base, auth, token, timeout).expect("a client")
}

async fn get(http: &Http) -> PortResult<Answer> {
    http.send(Method::GET, &["things"], &[], None).await
}

async fn a_token_stands_in_the_header_that_the_system_wants_and_nowhere_else() {
    let server = Server::start();
    for (auth, name, value) in [
        (Auth::Bearer, "authorization", format!("Bearer {TOKEN}")),
        (Auth::Token, "authorization", format!("token {TOKEN}")),
        (Auth::ApiKey, "x-api-key", TOKEN.to_owned()),
    ] {
        server.forget();
        server.answer_with(Fault::Body(200, "application/json", "{}".to_owned()));
        let http = client(&server, auth);
        let body = json!({ "a": 1 });
        let answer = http
            .send(Method::POST, &["a/b", "ü ?"], &[("q", "x y&")], Some(&body))
            .await
            .expect("an answer");
        assert_eq!(answer.json::<Value>().expect("JSON"), json!({}));
        let mut request = server.requests().remove(0);
        assert_eq!(request.target, "/api/a%2Fb/%C3%BC%20%3F?q=x+y%26");
        assert_eq!(request.body, body.to_string().into_bytes());
        assert_eq!(request.headers.remove(name).expect("the token"), value);
        assert!(!request.shows(TOKEN), "{request:?}");
        assert!(!format!("{http:?}").contains(TOKEN));
    }
}

async fn an_error_that_repeats_the_token_has_it_taken_out() {
    let server = Server::start();
    let echo = format!("you sent {TOKEN}, that is {TOKEN}");
    for status in [400, 403, 500] {
        server.answer_with(Fault::Body(status, "text/plain", echo.clone()));
        let answer = get(&client(&server, Auth::Token)).await.expect("an answer");
        assert_eq!(answer.body, b"you sent [secret], that is [secret]");
        let error = answer.unexpected(&String::from_utf8_lossy(&answer.body));
        let text = rdev_domain::chain(&error);
        assert!(text.contains("[secret]") && !text.contains(TOKEN), "{text}");
    }
}

async fn a_redirect_is_not_followed_and_its_target_sees_nothing() {
    let (server, elsewhere) = (Server::start(), Server::start());
    elsewhere.answer_with(Fault::Body(200, "application/json", "{}".to_owned()));
    server.answer_with(Fault::Redirect(elsewhere.url()));
    let answer = get(&client(&server, Auth::Token)).await.expect("an answer");
    assert_eq!(answer.status, 307);
    assert!(matches!(answer.unexpected(""), PortError::Upstream { .. }));
    assert_eq!(elsewhere.requests(), []);
}

async fn an_answer_is_read_up_to_16_mib() {
    let server = Server::start();
    let fits = "x".repeat(MAX_BODY);
    server.answer_with(Fault::Body(200, "text/plain", fits.clone()));
    let http = client(&server, Auth::Token);
    assert_eq!(get(&http).await.expect("an answer").body.len(), MAX_BODY);
    server.answer_with(Fault::Body(200, "text/plain", fits + "x"));
    assert!(matches!(get(&http).await, Err(PortError::Upstream { .. })));
    server.answer_with(Fault::Huge);
    assert!(matches!(get(&http).await, Err(PortError::Upstream { .. })));
}

async fn after_a_429_nothing_is_sent_until_its_time_has_come() {
    let server = Server::start();
    server.answer_with(Fault::Limited(1));
    let http = client(&server, Auth::Token);
    let second = Duration::from_secs(1);
    let limited = |answer| match answer {
        Err(PortError::Limited { retry_after, .. }) => retry_after.expect("how long"),
        other => panic!("{other:?}"),
    };
    assert_eq!(limited(get(&http).await), second);
    let since = Instant::now();
    server.answer_with(Fault::Status(204));
    // The pause is over when it lets one through again.
    loop {
        match get(&http).await {
            Ok(answer) => break assert_eq!(answer.status, 204),
            answer => assert!(limited(answer) <= second),
        }
        assert!(since.elapsed() < Duration::from_secs(120), "the pause does not end");
        tokio::task::yield_now().await;
    }
    assert!(since.elapsed() > Duration::from_millis(900), "{:?}", since.elapsed());
    assert_eq!(server.requests().len(), 2);
}

async fn what_goes_wrong_on_the_way_has_its_kind() {
    let server = Server::start();
    for (fault, kind) in [
        (Fault::Refused, "unavailable"),
        (Fault::Gone, "unavailable"),
        (Fault::CutOff, "unavailable"),
        (Fault::Hang, "timed out"),
        (Fault::Status(500), "unavailable"),
        (Fault::Status(401), "denied"),
        (Fault::Status(403), "denied"),
        (Fault::Status(418), "upstream"),
        (Fault::Html, "upstream"),
        (Fault::Truncated, "upstream"),
    ] {
        server.answer_with(fault.clone());
        let timeout = if fault == Fault::Hang { 1 } else { 30 };
        let http = patient(&server, Auth::Token, Duration::from_secs(timeout));
        let outcome = match get(&http).await {
            Err(error) => error,
            Ok(answer) if answer.status == 200 => answer.json::<Value>().expect_err("no JSON"),
            Ok(answer) => answer.unexpected("why"),
        };
        let found = match outcome {
            PortError::Unavailable { .. } => "unavailable",
            PortError::TimedOut { .. } => "timed out",
            PortError::Upstream { .. } => "upstream",
            PortError::Denied { .. } => "denied",
            other => panic!("{other:?}"),
        };
        assert_eq!(found, kind, "{fault:?}");
    }
}

async fn a_name_that_would_change_the_path_is_not_sent() {
    let server = Server::start();
    let http = client(&server, Auth::Token);
    for name in ["", ".", ".."] {
        let sent = http.send(Method::DELETE, &["things", name], &[], None).await;
        assert!(matches!(sent, Err(PortError::Invalid(_))), "{name:?}");
    }
    // A text that only looks like it after one more decoding is a name like others.
    let _ = http.send(Method::GET, &["things", "%2e%2e"], &[], None).await;
    let seen: Vec<String> = server.requests().into_iter().map(|seen| seen.target).collect();
    assert_eq!(seen, ["/api/things/%252e%252e"]);
}

fn a_base_url_has_no_credentials_query_or_fragment() {
    let new = |base| {
        let token = Token::known(Secret::new(TOKEN));
        Http::new("the system", base, Auth::Bearer, token, Duration::from_secs(1))
    };
    assert_eq!(new("https://h/api").expect("a client").base().as_str(), "https://h/api/");
    for bad in
        ["", "h", "ftp://h/", "https://u@h/", "https://u:p@h/", "https://h/?a", "https://h/#a"]
    {
        assert!(new(bad).is_err(), "{bad:?}");
    }
}

//! Where a git token goes: to its server, and nowhere else.

use rdev_testkit::servers::git_http::{GitServer, TOKEN, USER};
use serde_json::json;

use crate::support::{Server, configure};

#[tokio::test(flavor = "multi_thread")]
async fn a_git_token_is_in_no_log_and_no_file_but_the_configuration() {
    let data = tempfile::tempdir().expect("a folder");
    let forge = GitServer::start();
    forge.create("site", &[("a", "1\n")]);
    forge.create("locked", &[("a", "1\n")]);
    forge.hook("locked", "pre-receive", "echo no; exit 1");
    let credentials = format!(
        "[[git.credentials]]\norigin = \"{}\"\nusername = \"{USER}\"\ntoken = \"{TOKEN}\"\n",
        forge.origin()
    );
    configure(data.path(), &credentials);
    let server = Server::start(data.path(), &[("RUST_LOG", "trace")]).await;
    for name in ["site", "locked"] {
        let project = json!({"name": name, "git_url": forge.url(name)});
        let answer = server.post("/project", project).await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    let delivered =
        server.build("site", json!({"prompt": "env; git config --list; echo 2 > a"})).await;
    let nosy = format!("cat {}; echo nosy > nosy", data.path().join("rdev.json").display());
    let nosy =
        server.build("site", json!({"prompt": nosy, "verify": ["cat ../../../rdev.json"]})).await;
    let record = server.ended("site", &nosy).await;
    let log = server.events("site", &nosy).await.to_string();
    assert!(log.contains("admin_key"), "it was read: {log}");
    assert!(!format!("{record}{log}").contains(&server.key), "the admin key is in the record");
    let refused = server.build("locked", json!({"prompt": "echo 2 > a"})).await;
    let record = server.ended("site", &delivered).await;
    assert_eq!(record["result"]["outcome"], "delivered", "{record:#}");
    let record = server.ended("locked", &refused).await;
    assert_eq!(record["failure"]["class"], "push_rejected", "{record:#}");
    server.stop().await;

    let basic = {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{TOKEN}"))
    };
    let mut looked_at = 0;
    let mut folders = vec![data.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("rdev.toml") {
                let bytes = std::fs::read(&path).expect("a file");
                for secret in [TOKEN.as_bytes(), basic.as_bytes()] {
                    let found = bytes.windows(secret.len()).any(|window| window == secret);
                    assert!(!found, "the token is in {}", path.display());
                }
                looked_at += 1;
            }
        }
    }
    assert!(looked_at > 10, "the data folder was looked at");
}

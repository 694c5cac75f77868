//! Hostile repositories and agents.

use rdev_domain::result::Outcome;

use crate::world::{World, git};

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_plants_in_its_git_folder_neither_runs_nor_redirects() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let evil = world.data.path().join("evil");
    let elsewhere = world.data.path().join("elsewhere.git");
    git(world.data.path(), &["init", "-q", "--bare", "elsewhere.git"]);
    let running = world.run();
    let script = format!(
        r#"
        echo 2 > a
        printf '* filter=evil\n' > .gitattributes
        printf '#!/bin/sh\ntouch {evil}\n' > /tmp/rdev-hook-$$
        for hook in pre-commit commit-msg post-commit pre-push post-checkout post-index-change; do
            cp /tmp/rdev-hook-$$ .git/hooks/$hook 2>/dev/null || {{ mkdir -p .git/hooks; cp /tmp/rdev-hook-$$ .git/hooks/$hook; }}
            chmod +x .git/hooks/$hook
        done
        rm /tmp/rdev-hook-$$
        git config filter.evil.clean 'touch {evil}; cat'
        git config filter.evil.smudge 'touch {evil}; cat'
        git config filter.evil.required true
        git config core.fsmonitor 'touch {evil}'
        git config url.{elsewhere}.insteadOf "{repository}"
        git config url.{elsewhere}.pushInsteadOf "file://{repository}"
        mkdir -p $HOME
        git config --global url.{elsewhere}.insteadOf "file://"
        git config --global core.hooksPath $PWD/.git/hooks
        "#,
        evil = evil.display(),
        elsewhere = elsewhere.display(),
        repository = world.repository(&site).display(),
    );
    let id = world.build(&site, &script).await;
    let result = world.succeeded(id).await;
    assert_eq!(result.outcome, Outcome::Delivered);
    assert!(!evil.exists(), "something planted ran");
    assert_eq!(git(&world.repository(&site), &["show", "main:a"]), "2");
    assert_eq!(git(&elsewhere, &["for-each-ref"]), "", "the push went elsewhere");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_that_are_unsafe_to_check_out_are_refused_with_a_reason() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let repository = world.repository(&site);
    let before = git(&repository, &["rev-parse", "main"]);
    let running = world.run();
    for (script, reason) in [
        ("mkdir sub; git init -q sub; echo x > sub/x", ".git"),
        ("mkdir sub; mkdir sub/.GIT; echo x > sub/.GIT/config", ".GIT"),
        ("mkdir sub; mkdir 'sub/git~1'; echo x > 'sub/git~1/config'", "git~1"),
        ("ln -s /etc/passwd link", "link"),
        ("mkdir d; ln -s ../../outside d/link", "link"),
    ] {
        let id = world.build(&site, script).await;
        let (class, message) = world.failed(id).await;
        assert_eq!(class, "invalid", "{script}: {message}");
        assert!(message.contains(reason), "{script}: {message}");
    }
    assert_eq!(git(&repository, &["rev-parse", "main"]), before);
    assert_eq!(git(&repository, &["for-each-ref", "refs/rdev"]), "");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_files_or_bytes_than_allowed_are_refused_with_a_reason() {
    let mut world = World::new();
    world.config.runner.max_changed_files = 10;
    world.config.runner.max_changed_bytes = 100_000;
    let site = world.project("site", &[("a", "1\n")]).await;
    let repository = world.repository(&site);
    let before = git(&repository, &["rev-parse", "main"]);
    let untouched = || {
        assert_eq!(git(&repository, &["rev-parse", "main"]), before);
        assert_eq!(git(&repository, &["for-each-ref", "refs/rdev"]), "");
    };
    let running = world.run();
    let files =
        world.build(&site, "for n in 1 2 3 4 5 6 7 8 9 10 11; do echo $n > f$n; done").await;
    let (class, message) = world.failed(files).await;
    assert_eq!(class, "invalid");
    assert_eq!(message, "11 files are changed, and a build may change 10");
    untouched();
    let bytes = world.build(&site, "head -c 200000 /dev/zero > big").await;
    let (class, message) = world.failed(bytes).await;
    assert_eq!(class, "invalid");
    assert_eq!(message, "200000 bytes are changed, and a build may change 100000");
    untouched();
    let fits = world.build(&site, "head -c 90000 /dev/zero > big").await;
    assert_eq!(world.succeeded(fits).await.outcome, Outcome::Delivered);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_output_is_capped_and_ends_with_a_note() {
    let mut world = World::new();
    world.config.runner.max_event_bytes = 200_000;
    let site = world.project("site", &[("a", "1\n")]).await;
    let running = world.run();
    let id = world.build(&site, "i=0; while [ $i -lt 20000 ]; do echo \"line $i of a flood of output that nobody reads\"; i=$((i+1)); done; echo 2 > a").await;
    assert_eq!(world.succeeded(id).await.outcome, Outcome::Delivered);
    let log = world.log(id).await;
    assert!(log.len() < 600_000, "{}", log.len());
    assert!(log.contains("the log is full"));
    running.stop().await;
}

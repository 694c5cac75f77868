//! Domains: a name belongs to one project at a time, however many projects race for it.

use rdev_domain::dns::{Domain, DomainSpec, DomainState, Target, Ttl};
use rdev_domain::ids::ProjectId;
use rdev_domain::ports::{Conflict, PortResult};
use rdev_domain::project::{Deletion, Project, ProjectState};
use ulid::Ulid;

use super::cases;
use super::race::settled;
use super::world::{MINUTE, SECOND, World, conflict, key_actor, not_found, race, race_two};

cases! {
    a_domain_is_reserved_updated_and_forgotten;
    every_kind_of_domain_reads_back;
    a_reservation_is_pending_whatever_it_says;
    a_name_that_its_project_reserves_twice_is_reserved_once;
    a_name_of_another_project_is_refused_until_it_is_forgotten;
    a_domain_needs_a_project_that_stays;
    an_earlier_reservation_changes_nothing_of_a_later_one;
    domains_are_listed_newest_first;
    of_projects_that_reserve_a_name_at_once_one_gets_it;
    a_reservation_that_races_a_deletion_leaves_no_record;
    a_forgotten_project_has_no_domains;
    every_change_of_a_domain_is_recorded;
}

async fn a_domain_is_reserved_updated_and_forgotten(w: World) {
    let project = w.project().await;
    let domain = new_domain(&w, &project, "www.example.com");
    assert_eq!(reserve(&w, &domain).await.expect("the name is free"), domain);
    assert_eq!(read(&w, &domain).await.expect("it is there"), domain);
    assert_eq!(of(&w, &project).await, std::slice::from_ref(&domain));

    w.pass(MINUTE);
    let active = Domain {
        state: DomainState::Active,
        provider_record_id: Some("record-1".to_owned()),
        spec: DomainSpec {
            target: Target::Cname("other.example.net".parse().expect("a host")),
            ..domain.spec.clone()
        },
        ..domain.clone()
    };
    let updated = update(&w, &active).await.expect("it is there");
    assert_eq!(updated, Domain { updated_at: w.now(), ..active });
    assert_eq!(read(&w, &domain).await.expect("it is there"), updated);
    assert_eq!(of(&w, &project).await, std::slice::from_ref(&updated));

    for _ in 0..2 {
        forget(&w, &updated).await;
        not_found(read(&w, &domain).await);
        assert_eq!(of(&w, &project).await, []);
    }
    not_found(update(&w, &updated).await);
    not_found(read(&w, &domain).await);
    assert_eq!(of(&w, &project).await, []);
}

async fn every_kind_of_domain_reads_back(w: World) {
    let project = w.project().await;
    let long = format!("{0}.{0}.{0}.{1}.example.com", "a".repeat(60), "b".repeat(56));
    for name in ["example.com", "*.example.com", "_acme-challenge.a.example.com", &long] {
        let mut domain = new_domain(&w, &project, name);
        domain.spec.proxied = true;
        domain.spec.ttl = Ttl::try_from(300).expect("a TTL");
        domain.provider_record_id = Some("ü \"1\"".to_owned());
        assert_eq!(reserve(&w, &domain).await.expect("the name is free"), domain);
        assert_eq!(read(&w, &domain).await.expect("it is there"), domain);
    }
    assert_eq!(of(&w, &project).await.len(), 4);
}

async fn a_reservation_is_pending_whatever_it_says(w: World) {
    let project = w.project().await;
    let domain = new_domain(&w, &project, "www.example.com");
    let active = Domain { state: DomainState::Active, ..domain.clone() };
    assert_eq!(reserve(&w, &active).await.expect("the name is free"), domain);
    assert_eq!(read(&w, &domain).await.expect("it is there"), domain);
}

async fn a_name_that_its_project_reserves_twice_is_reserved_once(w: World) {
    let project = w.project().await;
    let first = new_domain(&w, &project, "www.example.com");
    reserve(&w, &first).await.expect("the name is free");
    assert_eq!(reserve(&w, &first).await.expect("it has it"), first, "the same request, repeated");
    w.pass(MINUTE);
    let first = update(&w, &Domain { state: DomainState::Active, ..first }).await.expect("there");
    let mut second = new_domain(&w, &project, "www.example.com");
    second.spec.target = Target::Cname("other.example.net".parse().expect("a host"));
    assert_eq!(reserve(&w, &second).await.expect("it has it"), first, "as it is");
    assert_eq!(of(&w, &project).await, [first]);
    assert_eq!(actions(&w, &project).await, ["domain.reserved", "domain.updated"]);
}

async fn a_name_of_another_project_is_refused_until_it_is_forgotten(w: World) {
    let (mine, other) = (w.project().await, w.project().await);
    let domain = new_domain(&w, &mine, "www.example.com");
    reserve(&w, &domain).await.expect("the name is free");
    let wanted = new_domain(&w, &other, "www.example.com");
    assert_eq!(conflict(reserve(&w, &wanted).await), Conflict::DomainTaken);
    not_found(update(&w, &wanted).await);
    forget(&w, &wanted).await;
    assert_eq!(read(&w, &domain).await.expect("it is there"), domain);
    assert_eq!(of(&w, &other).await, []);
    assert_eq!(actions(&w, &other).await, [""; 0]);

    forget(&w, &domain).await;
    assert_eq!(reserve(&w, &wanted).await.expect("it is free"), wanted);
    assert_eq!((of(&w, &mine).await, of(&w, &other).await), (vec![], vec![wanted]));
}

async fn a_domain_needs_a_project_that_stays(w: World) {
    let nowhere = "nowhere".parse().expect("a slug");
    let domain = new_domain(&w, &nowhere, "www.example.com");
    not_found(reserve(&w, &domain).await);
    not_found(update(&w, &domain).await);
    not_found(read(&w, &domain).await);
    assert_eq!(of(&w, &nowhere).await, []);
    forget(&w, &domain).await;

    let project = Project { state: ProjectState::Provisioning, ..w.new_project() };
    w.create(&project).await.expect("a new name");
    let domain = new_domain(&w, &project.id, "www.example.com");
    reserve(&w, &domain).await.expect("a project gets it while it is provisioned");
    w.store
        .begin_delete_project(&project.id, Deletion::KeepRepository, None, &key_actor(), w.now())
        .await
        .expect("nothing runs");
    for name in ["www.example.com", "new.example.com"] {
        let refused = reserve(&w, &new_domain(&w, &project.id, name)).await;
        assert_eq!(conflict(refused), Conflict::ProjectNotReady);
    }
    // What it has can be removed, step by step.
    let leaving = Domain { state: DomainState::Deleting, ..domain };
    let leaving = update(&w, &leaving).await.expect("it is there");
    assert_eq!(of(&w, &project.id).await, std::slice::from_ref(&leaving));
    forget(&w, &leaving).await;
    assert_eq!(of(&w, &project.id).await, []);
}

async fn an_earlier_reservation_changes_nothing_of_a_later_one(w: World) {
    let project = w.project().await;
    let earlier = new_domain(&w, &project, "www.example.com");
    reserve(&w, &earlier).await.expect("the name is free");
    forget(&w, &earlier).await;
    let later = new_domain(&w, &project, "www.example.com");
    reserve(&w, &later).await.expect("the name is free");
    let recorded = w.audit(&project).await.len();
    not_found(update(&w, &Domain { state: DomainState::Active, ..earlier.clone() }).await);
    forget(&w, &earlier).await;
    assert_eq!(read(&w, &later).await.expect("it is there"), later);
    assert_eq!(of(&w, &project).await, [later]);
    assert_eq!(w.audit(&project).await.len(), recorded);
}

async fn domains_are_listed_newest_first(w: World) {
    let (mine, other) = (w.project().await, w.project().await);
    let mut expected = Vec::new();
    for name in ["b.example.com", "c.example.com", "a.example.com"] {
        w.pass(SECOND);
        let domain = new_domain(&w, &mine, name);
        expected.insert(0, reserve(&w, &domain).await.expect("the name is free"));
        let of_other = new_domain(&w, &other, &format!("other.{name}"));
        reserve(&w, &of_other).await.expect("the name is free");
    }
    assert_eq!(of(&w, &mine).await, expected);
    assert_eq!(of(&w, &other).await.len(), 3);
    assert_eq!(of(&w, &w.project().await).await, []);
}

async fn of_projects_that_reserve_a_name_at_once_one_gets_it(w: World) {
    for round in 0..5 {
        let name = format!("round-{round}.example.com");
        let mut wanted = Vec::new();
        for _ in 0..6 {
            wanted.push(new_domain(&w, &w.project().await, &name));
        }
        let answers = race(wanted.len(), |number| {
            let (w, domain) = (w.clone(), wanted[number].clone());
            async move { settled(|| async { reserve(&w, &domain).await }).await }
        });
        let mut winners = Vec::new();
        for (domain, answer) in wanted.iter().zip(answers.await) {
            match answer {
                Ok(got) => winners.push(got),
                refused => {
                    assert_eq!(conflict(refused), Conflict::DomainTaken);
                    assert_eq!(of(&w, &domain.project_id).await, []);
                    assert_eq!(actions(&w, &domain.project_id).await, [""; 0]);
                }
            }
        }
        let [winner] = &winners[..] else { panic!("{} have it", winners.len()) };
        assert_eq!(&read(&w, winner).await.expect("it is there"), winner);
        assert_eq!(of(&w, &winner.project_id).await, std::slice::from_ref(winner));
    }
}

async fn a_reservation_that_races_a_deletion_leaves_no_record(w: World) {
    for round in 0..10 {
        let project = w.project().await;
        let domain = new_domain(&w, &project, &format!("round-{round}.example.com"));
        let (one, wanted) = (w.clone(), domain.clone());
        let (other, id) = (w.clone(), project.clone());
        let reserving = async move { settled(|| async { reserve(&one, &wanted).await }).await };
        let deleting = async move {
            let (store, by, now) = (&other.store, key_actor(), other.now());
            settled(|| store.begin_delete_project(&id, Deletion::KeepRepository, None, &by, now))
                .await
                .expect("nothing runs");
            settled(|| store.forget_project(&id, None, &by, now))
                .await
                .expect("it is being deleted");
        };
        let (reserved, ()) = race_two(reserving, deleting).await;
        not_found(read(&w, &domain).await);
        assert_eq!(of(&w, &project).await, []);
        let recorded = actions(&w, &project).await;
        match reserved {
            Ok(_) => assert_eq!(recorded, ["domain.reserved", "domain.removed"], "round {round}"),
            Err(_) => assert_eq!(recorded, [""; 0], "round {round}"),
        }
    }
}

async fn a_forgotten_project_has_no_domains(w: World) {
    let (mine, other) = (w.project().await, w.project().await);
    for name in ["a.example.com", "b.example.com"] {
        reserve(&w, &new_domain(&w, &mine, name)).await.expect("the name is free");
    }
    let kept = new_domain(&w, &other, "c.example.com");
    reserve(&w, &kept).await.expect("the name is free");
    let by = key_actor();
    w.store
        .begin_delete_project(&mine, Deletion::KeepRepository, None, &by, w.now())
        .await
        .expect("nothing runs");
    assert_eq!(of(&w, &mine).await.len(), 2, "the caller removes them from DNS first");
    w.store.forget_project(&mine, None, &by, w.now()).await.expect("it is being deleted");
    assert_eq!(of(&w, &mine).await, []);
    let removed = ["domain.reserved", "domain.reserved", "domain.removed", "domain.removed"];
    assert_eq!(actions(&w, &mine).await, removed);
    for name in ["a.example.com", "b.example.com"] {
        let domain = new_domain(&w, &other, name);
        not_found(read(&w, &domain).await);
        reserve(&w, &domain).await.expect("it is free");
    }
    assert_eq!(read(&w, &kept).await.expect("it is there"), kept);
}

async fn every_change_of_a_domain_is_recorded(w: World) {
    let project = w.project().await;
    let domain = new_domain(&w, &project, "www.example.com");
    reserve(&w, &domain).await.expect("the name is free");
    newest_is(&w, &project, "domain.reserved").await;
    w.pass(SECOND);
    update(&w, &domain).await.expect("it is there");
    newest_is(&w, &project, "domain.updated").await;
    w.pass(SECOND);
    forget(&w, &domain).await;
    newest_is(&w, &project, "domain.removed").await;
    forget(&w, &domain).await;
    not_found(update(&w, &domain).await);
    assert_eq!(w.audit(&project).await.len(), 4, "what changes nothing is not recorded");
}

fn new_domain(w: &World, project: &ProjectId, name: &str) -> Domain {
    let id: Ulid = w.ulid();
    Domain {
        id,
        project_id: project.clone(),
        project_nonce: w.nonce(project),
        spec: DomainSpec {
            domain: name.parse().expect("a name"),
            target: Target::A([93, 184, 216, 34].into()),
            proxied: false,
            ttl: Ttl::AUTOMATIC,
        },
        state: DomainState::Pending,
        provider_record_id: None,
        created_at: w.now(),
        updated_at: w.now(),
    }
}

async fn reserve(w: &World, domain: &Domain) -> PortResult<Domain> {
    w.store.reserve_domain(domain, &key_actor(), w.now()).await
}

async fn update(w: &World, domain: &Domain) -> PortResult<Domain> {
    w.store.update_domain(domain, &key_actor(), w.now()).await
}

async fn forget(w: &World, domain: &Domain) {
    let forgotten = w.store.forget_domain(domain, &key_actor(), w.now()).await;
    forgotten.expect("one that is not there is nothing");
}

async fn read(w: &World, domain: &Domain) -> PortResult<Domain> {
    w.store.domain(&domain.spec.domain).await
}

async fn of(w: &World, project: &ProjectId) -> Vec<Domain> {
    w.store.domains(project).await.expect("an answer")
}

/// What was done about the project's domains, in its order.
async fn actions(w: &World, project: &ProjectId) -> Vec<String> {
    let log = w.audit(project).await;
    let actions = log.into_iter().rev().map(|event| event.action);
    actions.filter(|action| action.starts_with("domain.")).collect()
}

async fn newest_is(w: &World, project: &ProjectId, action: &str) {
    let event = w.audit(project).await.into_iter().next().expect("it is recorded");
    assert_eq!((event.action.as_str(), event.at), (action, w.now()));
    assert_eq!(
        (event.subject.as_str(), event.actor),
        ("domain/www.example.com", key_actor().name())
    );
    assert_eq!(event.request_id.as_deref(), Some("request-1"));
}

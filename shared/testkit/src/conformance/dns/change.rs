//! Adding records and changing them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use rdev_domain::dns::{DomainSpec, RecordKind};
use rdev_domain::ports::{Conflict, DnsRecord, PortError};

use super::cases;
use super::world::{World, a, cname, seconds};

cases! {
    a_record_is_added_and_its_name_leads_there;
    a_record_that_is_added_again_stays_as_it_is;
    a_changed_target_replaces_the_earlier_one;
    a_time_to_live_is_kept_and_changed;
    an_a_becomes_a_cname_and_back_and_its_name_always_leads_somewhere;
    a_record_that_another_person_removed_is_created_again;
    a_record_that_another_person_changed_is_restored;
    the_proxy_stands_before_a_record_where_there_is_one;
    the_same_record_put_twice_at_once_is_one_record;
    two_targets_put_at_once_end_with_one_of_them;
    an_a_and_a_cname_put_at_once_end_with_one_of_them;
    records_show_what_they_say_and_whose_they_are;
}

async fn a_record_is_added_and_its_name_leads_there(w: World) {
    let name = w.name("site");
    assert_eq!(w.records(&name).await, []);
    assert_eq!(w.look_up(&name).await, [""; 0]);
    let tag = w.ownership_tag();
    let id = w.put(&a(&name, "192.0.2.1"), &tag).await.expect("a free name");
    let expected = DnsRecord {
        id,
        kind: Some(RecordKind::A),
        content: "192.0.2.1".to_owned(),
        ttl: w.automatic_ttl(),
        proxied: false,
        ownership_tag: Some(tag),
    };
    assert_eq!(w.only(&name).await, expected);
    assert_eq!(w.look_up(&name).await, ["192.0.2.1"]);

    let other = w.name("other");
    w.put(&cname(&other, "web.example.net"), &w.ownership_tag()).await.expect("a free name");
    assert_eq!(w.look_up(&other).await, ["web.example.net"]);
    assert_eq!(w.only(&name).await, expected);
}

async fn a_record_that_is_added_again_stays_as_it_is(w: World) {
    let (site, tag) = (w.name("site"), w.ownership_tag());
    for spec in [a(&site, "192.0.2.1"), cname(&w.name("alias"), "web.example.net")] {
        let id = w.put(&spec, &tag).await.expect("a free name");
        let record = w.only(&spec.domain).await;
        for _ in 0..3 {
            assert_eq!(w.put(&spec, &tag).await.expect("the same again"), id);
        }
        assert_eq!(w.only(&spec.domain).await, record);
    }
}

async fn a_changed_target_replaces_the_earlier_one(w: World) {
    let (name, tag) = (w.name("site"), w.ownership_tag());
    for address in ["192.0.2.1", "192.0.2.2", "192.0.2.1"] {
        let id = w.put(&a(&name, address), &tag).await.expect("a change");
        let record = w.only(&name).await;
        assert_eq!((record.id, record.content.as_str()), (id, address));
        assert_eq!(w.look_up(&name).await, [address]);
    }
    let (name, tag) = (w.name("alias"), w.ownership_tag());
    for target in ["web.example.net", "other.example.net"] {
        w.put(&cname(&name, target), &tag).await.expect("a change");
        assert_eq!(w.only(&name).await.content, target);
        assert_eq!(w.look_up(&name).await, [target]);
    }
}

async fn a_time_to_live_is_kept_and_changed(w: World) {
    let (name, tag) = (w.name("site"), w.ownership_tag());
    for ttl in [60, 86_400, 3_600] {
        let spec = DomainSpec { ttl: seconds(ttl), ..a(&name, "192.0.2.1") };
        w.put(&spec, &tag).await.expect("a change");
        assert_eq!(u64::from(w.only(&name).await.ttl), ttl);
    }
    w.put(&a(&name, "192.0.2.1"), &tag).await.expect("a change");
    assert_eq!(w.only(&name).await.ttl, w.automatic_ttl());
}

async fn an_a_becomes_a_cname_and_back_and_its_name_always_leads_somewhere(w: World) {
    let (name, tag) = (w.name("site"), w.ownership_tag());
    w.put(&a(&name, "192.0.2.1"), &tag).await.expect("a free name");
    let changing = Arc::new(AtomicBool::new(true));
    let watching = {
        let (w, name, changing) = (w.clone(), name.clone(), Arc::clone(&changing));
        tokio::spawn(async move {
            let mut looks = 0;
            while changing.load(Ordering::Relaxed) {
                let found = w.look_up(&name).await;
                assert_eq!(found.len(), 1, "after {looks} looks: {found:?}");
                looks += 1;
            }
            looks
        })
    };
    for round in 0..10 {
        let spec = match round % 2 {
            0 => cname(&name, "web.example.net"),
            _ => a(&name, "192.0.2.2"),
        };
        let id = w.put(&spec, &tag).await.expect("a change of the kind");
        let record = w.only(&name).await;
        assert_eq!((record.kind, record.id), (Some(spec.target.kind()), id));
        assert_eq!(record.content, spec.target.content());
        assert_eq!(record.ownership_tag.as_ref(), Some(&tag));
    }
    changing.store(false, Ordering::Relaxed);
    assert!(watching.await.expect("it leads somewhere at each look") > 0);
    assert_eq!(w.look_up(&name).await, ["192.0.2.2"]);
}

async fn a_record_that_another_person_removed_is_created_again(w: World) {
    let (name, tag) = (w.name("site"), w.ownership_tag());
    let spec = a(&name, "192.0.2.1");
    w.put(&spec, &tag).await.expect("a free name");
    w.take_away(&name, "A").await;
    assert_eq!(w.look_up(&name).await, [""; 0]);
    w.put(&spec, &tag).await.expect("a free name again");
    assert_eq!(w.look_up(&name).await, ["192.0.2.1"]);
}

async fn a_record_that_another_person_changed_is_restored(w: World) {
    let (name, tag) = (w.name("site"), w.ownership_tag());
    let spec = a(&name, "192.0.2.1");
    w.put(&spec, &tag).await.expect("a free name");
    // As people do in a dashboard: what is noted beside it stays.
    w.write_with(&name, "A", "192.0.2.99", Some(&tag)).await;
    assert_eq!(w.look_up(&name).await, ["192.0.2.99"]);
    w.put(&spec, &tag).await.expect("ours, by its ownership tag");
    assert_eq!(w.look_up(&name).await, ["192.0.2.1"]);
}

async fn the_proxy_stands_before_a_record_where_there_is_one(w: World) {
    let (name, tag) = (w.name("site"), w.ownership_tag());
    let plain = DomainSpec { ttl: seconds(600), ..a(&name, "192.0.2.1") };
    let proxied = DomainSpec { proxied: true, ..plain.clone() };
    let id = w.put(&proxied, &tag).await.expect("a free name");
    let record = w.only(&name).await;
    let ttl = if w.has_proxy() { w.automatic_ttl() } else { 600 };
    assert_eq!((record.proxied, record.ttl), (w.has_proxy(), ttl));
    // Not another record, and not another change, each time.
    assert_eq!(w.put(&proxied, &tag).await.expect("the same again"), id);
    assert_eq!(w.only(&name).await, record);
    w.put(&plain, &tag).await.expect("a change");
    let record = w.only(&name).await;
    assert_eq!((record.proxied, record.ttl), (false, 600));
}

async fn the_same_record_put_twice_at_once_is_one_record(w: World) {
    for round in 0..5 {
        let (name, tag) = (w.name(&format!("site-{round}")), w.ownership_tag());
        let spec = a(&name, "192.0.2.1");
        let put = |_| {
            let (w, spec, tag) = (w.clone(), spec.clone(), tag.clone());
            tokio::spawn(async move { w.put(&spec, &tag).await })
        };
        for outcome in join_all((0..4).map(put)).await {
            outcome.expect("no panic").expect("a free name");
        }
        assert_eq!(w.only(&name).await.content, "192.0.2.1");
        assert_eq!(w.look_up(&name).await, ["192.0.2.1"]);
    }
}

async fn two_targets_put_at_once_end_with_one_of_them(w: World) {
    for round in 0..5 {
        let name = w.name(&format!("site-{round}"));
        at_once(&w, &a(&name, "192.0.2.1"), &a(&name, "192.0.2.2")).await;
    }
}

async fn an_a_and_a_cname_put_at_once_end_with_one_of_them(w: World) {
    for round in 0..5 {
        let name = w.name(&format!("site-{round}"));
        at_once(&w, &a(&name, "192.0.2.1"), &cname(&name, "web.example.net")).await;
    }
}

/// Two processes put two targets of one name; one of them stays, and the next change finds
/// everything in order.
async fn at_once(w: &World, one: &DomainSpec, other: &DomainSpec) {
    let (name, tag) = (&one.domain, w.ownership_tag());
    let put = |spec: &DomainSpec| {
        let (w, spec, tag) = (w.clone(), spec.clone(), tag.clone());
        tokio::spawn(async move { w.put(&spec, &tag).await })
    };
    let outcomes = join_all([put(one), put(other)]).await;
    let outcomes = outcomes.into_iter().map(|outcome| outcome.expect("no panic"));
    let mut went_through = 0;
    for outcome in outcomes {
        match outcome {
            Ok(_) => went_through += 1,
            // Whoever was always too late may try again.
            Err(PortError::Conflict(Conflict::Contended)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(went_through > 0, "one of both");
    let left = w.only(name).await;
    let of = |spec: &DomainSpec| (Some(spec.target.kind()), spec.target.content());
    let left = (left.kind, left.content);
    assert!(left == of(one) || left == of(other), "{left:?}");
    w.put(one, &tag).await.expect("a change after it");
    assert_eq!(w.only(name).await.content, one.target.content());
}

async fn records_show_what_they_say_and_whose_they_are(w: World) {
    let name = w.name("site");
    w.write_with(&name, "A", "192.0.2.9", Some("by hand")).await;
    w.write(&name, "AAAA", "2001:db8::9").await;
    let mut records = w.records(&name).await;
    records.sort_by_key(|record| record.content.clone());
    let shown: Vec<_> = records
        .iter()
        .map(|record| (record.kind, record.content.as_str(), record.ownership_tag.as_deref()))
        .collect();
    let expected =
        [(Some(RecordKind::A), "192.0.2.9", Some("by hand")), (None, "2001:db8::9", None)];
    assert_eq!(shown, expected);
    assert_ne!(records[0].id, records[1].id);
}

//! Deleting records of ours.

use futures_util::future::join_all;
use rdev_domain::ports::{Conflict, PortError};

use super::cases;
use super::world::{World, a, cname};

cases! {
    a_deleted_record_is_gone_and_its_name_leads_nowhere;
    a_record_deleted_twice_is_deleted;
    a_name_without_records_has_nothing_to_delete;
    a_record_whose_id_was_never_recorded_is_deleted_by_its_ownership_tag;
    a_record_that_took_the_place_of_the_recorded_one_is_deleted_too;
    a_record_is_added_again_after_it_was_deleted;
    names_beside_a_deleted_one_stay;
    a_put_that_races_a_delete_leaves_one_record_or_none;
}

async fn a_deleted_record_is_gone_and_its_name_leads_nowhere(w: World) {
    let site = w.name("site");
    for spec in [a(&site, "192.0.2.1"), cname(&site, "web.example.net")] {
        let tag = w.ownership_tag();
        let id = w.put(&spec, &tag).await.expect("a free name");
        w.dns().delete(&site, Some(&id), &tag).await.expect("ours");
        assert_eq!(w.records(&site).await, []);
        assert_eq!(w.look_up(&site).await, [""; 0]);
    }
}

async fn a_record_deleted_twice_is_deleted(w: World) {
    let (name, tag) = (w.name("site"), w.ownership_tag());
    let id = w.put(&a(&name, "192.0.2.1"), &tag).await.expect("a free name");
    for id in [Some(id.as_str()), Some(id.as_str()), None] {
        w.dns().delete(&name, id, &tag).await.expect("there is nothing to do any more");
    }
    let delete = |_| {
        let (w, name, tag) = (w.clone(), name.clone(), tag.clone());
        tokio::spawn(async move { w.dns().delete(&name, None, &tag).await })
    };
    w.put(&a(&name, "192.0.2.1"), &tag).await.expect("a free name");
    for outcome in join_all((0..4).map(delete)).await {
        outcome.expect("no panic").expect("ours, at once");
    }
    assert_eq!(w.records(&name).await, []);
}

async fn a_name_without_records_has_nothing_to_delete(w: World) {
    for id in [None, Some("of-a-record-that-never-was")] {
        w.dns().delete(&w.name("site"), id, &w.ownership_tag()).await.expect("nothing to do");
    }
}

async fn a_record_whose_id_was_never_recorded_is_deleted_by_its_ownership_tag(w: World) {
    // As after an answer that was lost: the record is there, and its id was not recorded.
    let (name, tag) = (w.name("site"), w.ownership_tag());
    w.put(&a(&name, "192.0.2.1"), &tag).await.expect("a free name");
    w.dns().delete(&name, None, &tag).await.expect("ours by its ownership tag");
    assert_eq!(w.records(&name).await, []);
}

async fn a_record_that_took_the_place_of_the_recorded_one_is_deleted_too(w: World) {
    // As when the answer to a change from A to CNAME was lost: the recorded id is of the A. The
    // ownership tag stands for the domain and was recorded before there was any record.
    let (name, tag) = (w.name("site"), w.ownership_tag());
    let recorded = w.put(&a(&name, "192.0.2.1"), &tag).await.expect("a free name");
    let now = w.put(&cname(&name, "web.example.net"), &tag).await.expect("a change");
    assert_ne!(recorded, now);
    w.dns().delete(&name, Some(&recorded), &tag).await.expect("ours by its ownership tag");
    assert_eq!(w.records(&name).await, []);
    assert_eq!(w.look_up(&name).await, [""; 0]);
}

async fn a_record_is_added_again_after_it_was_deleted(w: World) {
    let name = w.name("site");
    for address in ["192.0.2.1", "192.0.2.1", "192.0.2.2"] {
        // A domain that is added again is another domain, with another ownership tag.
        let tag = w.ownership_tag();
        let id = w.put(&a(&name, address), &tag).await.expect("a free name");
        assert_eq!(w.look_up(&name).await, [address]);
        assert_eq!(w.only(&name).await.ownership_tag.as_ref(), Some(&tag));
        w.dns().delete(&name, Some(&id), &tag).await.expect("ours");
    }
}

async fn names_beside_a_deleted_one_stay(w: World) {
    let tag = w.ownership_tag();
    let names = ["site", "a.site", "xsite", "site2"].map(|label| w.name(label));
    for name in &names {
        // With one ownership tag, which never happens: only the name tells them apart.
        w.put(&a(name, "192.0.2.1"), &tag).await.expect("a free name");
    }
    w.dns().delete(&names[0], None, &tag).await.expect("ours");
    assert_eq!(w.look_up(&names[0]).await, [""; 0]);
    for name in &names[1..] {
        assert_eq!(w.look_up(name).await, ["192.0.2.1"], "{name}");
    }
}

async fn a_put_that_races_a_delete_leaves_one_record_or_none(w: World) {
    for round in 0..5 {
        let (name, tag) = (w.name(&format!("site-{round}")), w.ownership_tag());
        w.put(&a(&name, "192.0.2.1"), &tag).await.expect("a free name");
        let (changer, remover) = (w.clone(), w.clone());
        let spec = cname(&name, "web.example.net");
        let (put, delete) = {
            let (tag, other) = (tag.clone(), tag.clone());
            let name = name.clone();
            (
                tokio::spawn(async move { changer.put(&spec, &tag).await }),
                tokio::spawn(async move { remover.dns().delete(&name, None, &other).await }),
            )
        };
        match put.await.expect("no panic") {
            Ok(_) | Err(PortError::Conflict(Conflict::Contended)) => {}
            Err(error) => panic!("{error:?}"),
        }
        delete.await.expect("no panic").expect("ours");
        let left = w.records(&name).await;
        assert!(left.len() <= 1, "{left:?}");
        assert!(left.iter().all(|record| record.ownership_tag.as_ref() == Some(&tag)), "{left:?}");
        w.dns().delete(&name, None, &tag).await.expect("ours");
        assert_eq!(w.records(&name).await, []);
    }
}

//! Foreign records: those that rdev has not written.

use rdev_domain::ports::DnsRecord;

use super::cases;
use super::world::{World, a, cname, not_ours};

cases! {
    a_foreign_record_is_never_replaced;
    a_foreign_record_is_never_deleted;
    a_record_with_another_ownership_tag_is_foreign;
    an_ownership_tag_is_compared_as_a_whole;
    a_record_that_lost_its_ownership_tag_is_foreign;
    nothing_is_put_beside_a_foreign_record;
    a_foreign_record_beside_ours_stays_when_ours_is_deleted;
}

async fn a_foreign_record_is_never_replaced(w: World) {
    for (label, kind, content) in [
        ("a", "A", "192.0.2.9"),
        ("aaaa", "AAAA", "2001:db8::9"),
        ("cname", "CNAME", "x.example.net"),
    ] {
        for comment in [None, Some("by hand")] {
            let name = w.name(&format!("{label}-{}", comment.is_some()));
            w.write_with(&name, kind, content, comment).await;
            let before = w.records(&name).await;
            for spec in [a(&name, "192.0.2.1"), cname(&name, "web.example.net")] {
                not_ours(w.put(&spec, &w.ownership_tag()).await);
            }
            // Not even the same one becomes ours.
            if kind != "AAAA" {
                let same = if kind == "A" { a(&name, content) } else { cname(&name, content) };
                not_ours(w.put(&same, &w.ownership_tag()).await);
            }
            assert_eq!(w.records(&name).await, before, "{name}");
            assert_eq!(before[0].content, content);
        }
    }
}

async fn a_foreign_record_is_never_deleted(w: World) {
    let name = w.name("site");
    w.write_with(&name, "A", "192.0.2.9", Some("by hand")).await;
    let before: Vec<DnsRecord> = w.records(&name).await;
    // An id alone does not make it ours, whatever was recorded.
    for id in [None, Some("of-another-record"), Some(before[0].id.as_str())] {
        not_ours(w.dns().delete(&name, id, &w.ownership_tag()).await);
        assert_eq!(w.records(&name).await, before);
    }
    assert_eq!(w.look_up(&name).await, ["192.0.2.9"]);
}

async fn a_record_with_another_ownership_tag_is_foreign(w: World) {
    let (name, tag) = (w.name("site"), w.ownership_tag());
    let id = w.put(&a(&name, "192.0.2.1"), &tag).await.expect("a free name");
    let before = w.records(&name).await;
    let another = w.ownership_tag();
    not_ours(w.put(&a(&name, "192.0.2.2"), &another).await);
    not_ours(w.put(&a(&name, "192.0.2.1"), &another).await);
    not_ours(w.dns().delete(&name, Some(&id), &another).await);
    assert_eq!(w.records(&name).await, before);
}

async fn an_ownership_tag_is_compared_as_a_whole(w: World) {
    let (name, tag) = (w.name("site"), "rdev:site:01".to_owned());
    w.put(&a(&name, "192.0.2.1"), &tag).await.expect("a free name");
    for other in ["rdev:site:0", "rdev:site:011", "RDEV:SITE:01", "rdev:site"] {
        not_ours(w.put(&a(&name, "192.0.2.2"), other).await);
        not_ours(w.dns().delete(&name, None, other).await);
    }
    assert_eq!(w.look_up(&name).await, ["192.0.2.1"]);
}

async fn a_record_that_lost_its_ownership_tag_is_foreign(w: World) {
    let (name, tag) = (w.name("site"), w.ownership_tag());
    let id = w.put(&a(&name, "192.0.2.1"), &tag).await.expect("a free name");
    w.write_with(&name, "A", "192.0.2.9", Some("mine now")).await;
    not_ours(w.put(&a(&name, "192.0.2.1"), &tag).await);
    not_ours(w.dns().delete(&name, Some(&id), &tag).await);
    assert_eq!(w.look_up(&name).await, ["192.0.2.9"]);
}

async fn nothing_is_put_beside_a_foreign_record(w: World) {
    let (name, tag) = (w.name("site"), w.ownership_tag());
    w.put(&a(&name, "192.0.2.1"), &tag).await.expect("a free name");
    w.write(&name, "AAAA", "2001:db8::9").await;
    let before = w.records(&name).await;
    assert_eq!(before.len(), 2);
    for spec in [a(&name, "192.0.2.2"), cname(&name, "web.example.net")] {
        not_ours(w.put(&spec, &tag).await);
    }
    assert_eq!(w.records(&name).await, before);
}

async fn a_foreign_record_beside_ours_stays_when_ours_is_deleted(w: World) {
    let (name, tag) = (w.name("site"), w.ownership_tag());
    let id = w.put(&a(&name, "192.0.2.1"), &tag).await.expect("a free name");
    w.write(&name, "AAAA", "2001:db8::9").await;
    w.dns().delete(&name, Some(&id), &tag).await.expect("ours");
    assert_eq!(w.only(&name).await.content, "2001:db8::9");
    // There is nothing of ours any more, and what is there is not.
    not_ours(w.dns().delete(&name, Some(&id), &tag).await);
}

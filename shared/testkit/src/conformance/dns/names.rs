//! Names of every form, and what is refused for what it is.

use rdev_domain::dns::{DomainName, DomainSpec};

use super::cases;
use super::world::{World, a, cname, invalid};

cases! {
    a_wildcard_is_a_name_like_others_and_answers_for_all_below_it;
    a_challenge_for_a_certificate_can_be_delegated;
    the_zone_itself_can_have_an_address;
    a_name_of_the_greatest_length_is_accepted;
    a_name_in_punycode_is_accepted;
    a_name_outside_of_the_zone_is_invalid;
    a_name_that_leads_to_itself_is_invalid;
    an_ownership_tag_that_does_not_fit_into_a_comment_is_invalid;
}

async fn a_wildcard_is_a_name_like_others_and_answers_for_all_below_it(w: World) {
    let (below, tag) = (w.name("below"), w.ownership_tag());
    let wildcard: DomainName = format!("*.{below}").parse().expect("a wildcard");
    let exact: DomainName = format!("own.{below}").parse().expect("a name");
    w.put(&a(&wildcard, "192.0.2.1"), &tag).await.expect("a free name");
    w.put(&a(&exact, "192.0.2.2"), &w.ownership_tag()).await.expect("a free name");
    assert_eq!(w.only(&wildcard).await.content, "192.0.2.1");
    assert_eq!(w.only(&exact).await.content, "192.0.2.2");
    assert_eq!(w.look_up(&exact).await, ["192.0.2.2"]);
    assert_eq!(w.look_up(format!("other.{below}")).await, ["192.0.2.1"]);
    // It answers for them, and is no record of them.
    let other: DomainName = format!("other.{below}").parse().expect("a name");
    assert_eq!(w.records(&other).await, []);
    w.put(&cname(&wildcard, "web.example.net"), &tag).await.expect("a change");
    assert_eq!(w.look_up(format!("other.{below}")).await, ["web.example.net"]);
    w.dns().delete(&wildcard, None, &tag).await.expect("ours");
    assert_eq!(w.records(&wildcard).await, []);
    assert_eq!(w.only(&exact).await.content, "192.0.2.2");
}

async fn a_challenge_for_a_certificate_can_be_delegated(w: World) {
    let name: DomainName = format!("_acme-challenge.{}", w.name("site")).parse().expect("a name");
    let tag = w.ownership_tag();
    w.put(&cname(&name, "proof.acme.example.net"), &tag).await.expect("a free name");
    assert_eq!(w.look_up(&name).await, ["proof.acme.example.net"]);
    w.dns().delete(&name, None, &tag).await.expect("ours");
    assert_eq!(w.records(&name).await, []);
}

async fn the_zone_itself_can_have_an_address(w: World) {
    let name: DomainName = w.zone().as_str().parse().expect("a name");
    let tag = w.ownership_tag();
    let id = w.put(&a(&name, "192.0.2.1"), &tag).await.expect("it is free");
    assert_eq!(w.look_up(&name).await, ["192.0.2.1"]);
    assert_eq!(w.put(&a(&name, "192.0.2.1"), &tag).await.expect("the same again"), id);
    w.dns().delete(&name, Some(&id), &tag).await.expect("ours");
    assert_eq!(w.look_up(&name).await, [""; 0]);
}

async fn a_name_of_the_greatest_length_is_accepted(w: World) {
    let mut name = w.name("site").to_string();
    while name.len() < 253 {
        let label = (253 - name.len() - 1).min(63);
        // Not a rest of one character: a label needs one beside its dot.
        let label = if 253 - name.len() - 1 - label == 1 { label - 1 } else { label };
        name = format!("{}.{name}", "x".repeat(label));
    }
    let name: DomainName = name.parse().expect("a name of 253 characters");
    let tag = w.ownership_tag();
    w.put(&a(&name, "192.0.2.1"), &tag).await.expect("a free name");
    assert_eq!(w.look_up(&name).await, ["192.0.2.1"]);
    w.dns().delete(&name, None, &tag).await.expect("ours");
}

async fn a_name_in_punycode_is_accepted(w: World) {
    let name = w.name("xn--bcher-kva");
    w.put(&cname(&name, "xn--mnchen-3ya.example.net"), &w.ownership_tag())
        .await
        .expect("a free name");
    assert_eq!(w.look_up(&name).await, ["xn--mnchen-3ya.example.net"]);
}

async fn a_name_outside_of_the_zone_is_invalid(w: World) {
    let zone = w.zone();
    for name in [format!("evil{zone}"), format!("{zone}.example.org"), "example.org".to_owned()] {
        let name: DomainName = name.parse().expect("a name");
        for spec in [a(&name, "192.0.2.1"), cname(&name, "web.example.net")] {
            assert_eq!(invalid(w.put(&spec, &w.ownership_tag()).await).what, "domain");
        }
        invalid(w.dns().records(&name).await);
        invalid(w.dns().delete(&name, None, &w.ownership_tag()).await);
    }
}

async fn a_name_that_leads_to_itself_is_invalid(w: World) {
    let name = w.name("site");
    assert_eq!(
        invalid(w.put(&cname(&name, name.as_str()), &w.ownership_tag()).await).what,
        "target"
    );
    assert_eq!(w.records(&name).await, []);
}

async fn an_ownership_tag_that_does_not_fit_into_a_comment_is_invalid(w: World) {
    let name = w.name("site");
    let spec: DomainSpec = a(&name, "192.0.2.1");
    for tag in ["", " ", " rdev", "rdev:\n", "rdev:\u{0}x", &"x".repeat(101)] {
        invalid(w.put(&spec, tag).await);
        invalid(w.dns().delete(&name, None, tag).await);
    }
    assert_eq!(w.records(&name).await, []);
    w.put(&spec, &"x".repeat(100)).await.expect("an ownership tag of the greatest length");
}

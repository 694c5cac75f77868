//! What roles may do: no wildcards.

use serde_json::Value;

use crate::infra::tools::template;
use rdev_testkit::tools::trial::Outcome;

rdev_testkit::trials! {
    fn no_statement_has_a_wildcard_for_its_actions_or_its_resource;
}

fn no_statement_has_a_wildcard_for_its_actions_or_its_resource() -> Outcome {
    let template = template()?;
    let mut statements = Vec::new();
    find(&template["Resources"], &mut statements);
    assert!(statements.len() > 30, "{}", statements.len());
    for statement in statements {
        let trusts = !statement["Principal"].is_null();
        for name in ["NotAction", "NotResource", "NotPrincipal"] {
            assert!(statement[name].is_null(), "{statement}");
        }
        let mut actions = Vec::new();
        texts(&statement["Action"], &mut actions);
        assert!(!actions.is_empty(), "{statement}");
        assert!(actions.iter().all(|action| !action.contains('*')), "{statement}");
        let mut principals = Vec::new();
        texts(&statement["Principal"], &mut principals);
        assert!(!principals.contains(&"*"), "{statement}");
        let mut places = Vec::new();
        texts(&statement["Resource"], &mut places);
        assert_eq!(places.is_empty(), trusts, "{statement}");
        for place in places {
            // A star may end the name of a thing of ours, as in `task/${Cluster}/*`.
            let stars = place.matches('*').count();
            let ours = place.contains("${") && place.ends_with("/*");
            assert!(stars == 0 || stars == 1 && ours, "{statement}");
        }
    }
    Ok(())
}

/// Everything that has an effect.
fn find<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(fields) if fields.contains_key("Effect") => found.push(value),
        Value::Object(fields) => fields.values().for_each(|field| find(field, found)),
        Value::Array(items) => items.iter().for_each(|item| find(item, found)),
        _ => {}
    }
}

fn texts<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Object(fields) => fields.values().for_each(|field| texts(field, found)),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        _ => {}
    }
}

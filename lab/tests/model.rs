//! The model in small bounds: the protocol holds, and each variant that lacks a rule is caught.

use rdev_lab::model::{Bounds, Protocol, Variant};
use stateright::{Checker, HasDiscoveries, Model};

#[test]
fn the_protocol_holds_in_every_state() {
    let model = Protocol { bounds: Bounds::TINY, variant: Variant::Protocol };
    let checker = model.checker().threads(2).spawn_bfs().join();
    assert!(checker.unique_state_count() > 100_000, "{}", checker.unique_state_count());
    checker.assert_properties();
}

#[test]
fn each_variant_that_lacks_a_rule_is_caught() {
    for variant in Variant::BROKEN {
        let model = Protocol { bounds: Bounds::CHAIN, variant };
        let caught = model.checker().threads(2).finish_when(HasDiscoveries::Any).spawn_bfs().join();
        assert!(!caught.discoveries().is_empty(), "{variant:?} was not caught");
    }
}

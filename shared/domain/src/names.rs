//! What enums of names have in common: strum derives it, and this gives it inherent names, so
//! that callers import no trait.

/// Gives an enum that derives strum's `EnumCount`, `IntoStaticStr` and `VariantArray` the list of
/// its values and their names.
macro_rules! names {
    ($($name:ident),+) => { $(
        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: [Self; <Self as strum::EnumCount>::COUNT] =
                match <Self as strum::VariantArray>::VARIANTS.first_chunk() {
                    Some(all) => *all,
                    None => panic!("strum counts as many variants as it lists"),
                };

            /// The name in the API.
            pub fn as_str(self) -> &'static str {
                self.into()
            }
        }
    )+ };
}
pub(crate) use names;

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use serde::Serialize;
    use serde::de::DeserializeOwned;

    use crate::dns::RecordKind;
    use crate::event::EventKind;
    use crate::failure::FailureClass;
    use crate::key::Scope;
    use crate::project::ProjectState;
    use crate::pull_request::Deliver;
    use crate::result::Outcome;
    use crate::spec::AgentName;
    use crate::task::TaskState;
    use crate::worker::WorkerStatus;

    fn in_json<T>(all: &[T], names: &[&'static str])
    where
        T: Copy + PartialEq + Debug + Serialize + DeserializeOwned,
    {
        assert_eq!(all.len(), names.len());
        for (&value, &name) in all.iter().zip(names) {
            assert_eq!(serde_json::to_value(value).expect("a name"), name);
            assert_eq!(serde_json::from_value::<T>(name.into()).expect("a value"), value);
        }
    }

    #[test]
    fn each_name_is_the_same_in_json() {
        macro_rules! check {
            ($($name:ident),+) => { $( in_json(&$name::ALL, &$name::ALL.map($name::as_str)); )+ };
        }
        check!(
            AgentName,
            Deliver,
            EventKind,
            FailureClass,
            Outcome,
            ProjectState,
            RecordKind,
            Scope,
            TaskState,
            WorkerStatus
        );
    }

    #[test]
    fn the_names_that_records_and_clients_hold_stay() {
        assert_eq!(
            AgentName::ALL.map(AgentName::as_str),
            ["claude-code", "opencode", "codex", "command"]
        );
        assert_eq!(
            TaskState::ALL.map(TaskState::as_str),
            ["queued", "running", "pushing", "succeeded", "failed", "cancelled"]
        );
        assert_eq!(
            FailureClass::ALL.map(FailureClass::as_str),
            [
                "auth",
                "quota",
                "rate_limited",
                "infra",
                "agent_failed",
                "agent_stalled",
                "verify_failed",
                "conflict",
                "push_rejected",
                "history_rewritten",
                "invalid",
                "timeout",
                "budget_exceeded",
                "cancelled",
                "worker_lost",
                "poison",
            ]
        );
        assert_eq!(
            Scope::ALL.map(Scope::as_str),
            [
                "admin",
                "projects:read",
                "projects:write",
                "builds:read",
                "builds:write",
                "domains:read",
                "domains:write",
                "domains:admin",
                "ci:read",
                "ci:write",
                "work:read",
                "work:write",
                "workers:read",
                "workers:write",
            ]
        );
        assert_eq!(
            EventKind::ALL.map(EventKind::as_str),
            [
                "state",
                "phase",
                "agent.text",
                "agent.tool_use",
                "agent.tool_result",
                "agent.usage",
                "log"
            ]
        );
        assert_eq!(
            ProjectState::ALL.map(ProjectState::as_str),
            ["provisioning", "ready", "provisioning_failed", "deleting"]
        );
        assert_eq!(
            WorkerStatus::ALL.map(WorkerStatus::as_str),
            ["idle", "busy", "draining", "offline"]
        );
        assert_eq!(
            Outcome::ALL.map(Outcome::as_str),
            ["delivered", "no_change", "committed_not_pushed", "diff_only"]
        );
        assert_eq!(RecordKind::ALL.map(RecordKind::as_str), ["A", "CNAME"]);
    }
}

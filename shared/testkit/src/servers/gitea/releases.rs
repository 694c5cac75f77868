//! Releases: tags with a text.

use super::response::{ApiResponse, Call, changeable, created, internal, not_found};
use super::state::now;
use super::{Shared, files, locked, shapes};
use crate::servers::git_http::try_git;

pub(super) fn create(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
) -> Result<ApiResponse, ApiResponse> {
    let mut state = locked(&shared.state);
    let found = changeable(&state, call, owner, name)?;
    let tag = call.required("tag_name")?;
    let mut target = call.text("target_commitish")?;
    if target.is_empty() {
        target.clone_from(&found.default_branch);
    }
    let tip = files::tip(&found.folder, &target);
    let commit = tip.or_else(|| files::resolve(&found.folder, &target)).ok_or_else(not_found)?;
    let reference = format!("refs/tags/{tag}");
    // A tag that is there stays where it is.
    if files::resolve(&found.folder, &reference).is_none() {
        try_git(&found.folder, &["update-ref", &reference, &commit])
            .map_err(|why| internal(shared, &why))?;
    }
    let id = state.next_id();
    let (title, body) = (call.text("name")?, call.text("body")?);
    let about = (title.as_str(), body.as_str(), call.user()?);
    let shape = shapes::release(&state, &found, (id, &tag, &target), about, &now());
    state.change(&found, |found| found.releases += 1);
    Ok(created(shape))
}

//! `rdev template …`.

use super::{Column, Session};
use crate::args::project::Template;
use crate::args::values::Paging;
use crate::exit::Exit;

const COLUMNS: [Column; 2] = [("NAME", "/name"), ("DESCRIPTION", "/description")];

/// Runs one of the commands.
pub(crate) async fn run(session: &Session, command: Template) -> anyhow::Result<Exit> {
    match command {
        Template::List => {
            let all = Paging { limit: 100, cursor: None };
            session.list("templates", &all, &COLUMNS).await
        }
    }
}

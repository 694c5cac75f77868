//! What `infra/` and `templates/` say: that the tools of AWS, Kubernetes and Node take it, and
//! that it agrees with the code.

mod image;
mod kubernetes;
mod local;
mod pages;
mod settings;
mod statements;
mod template;
mod tools;

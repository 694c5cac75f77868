//! What `infra/` says: that the tools of AWS and Kubernetes take it, and that it agrees with
//! the code.

mod image;
mod kubernetes;
mod local;
mod settings;
mod statements;
mod template;
mod tools;

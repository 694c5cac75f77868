//! The value of `RUST_LOG`.

/// The directives in `text`, separated by commas, without blanks around them and without empty
/// ones: an empty directive would mean the level ERROR, and would override the level before it.
pub fn log_directives(text: &str) -> String {
    let directives = text.split(',').map(str::trim).filter(|directive| !directive.is_empty());
    directives.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_directives_and_blanks_around_directives_mean_nothing() {
        for (text, directives) in [
            ("info", "info"),
            (",info,,hyper=warn,", "info,hyper=warn"),
            ("warn, rdev_runner=debug", "warn,rdev_runner=debug"),
            (" , ", ""),
            ("", ""),
        ] {
            assert_eq!(log_directives(text), directives, "{text:?}");
        }
    }
}

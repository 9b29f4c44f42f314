//! placeholder
/// x
pub fn page(_: &[super::report::Report], _: &str) -> anyhow::Result<String> {
    Ok(String::new())
}

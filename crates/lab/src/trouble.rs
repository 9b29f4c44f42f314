//! Why a run ended badly, and the exit code that says so.

/// The thing under test failed: exit 1. Everything else that goes wrong is a run that could not run: exit 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UnderTest(pub String);

/// The exit code for an error: 1 when the thing under test failed, 130 after a signal, else 2.
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if crate::interrupt::interrupted() {
        return 130;
    }
    if error.chain().any(<dyn std::error::Error + 'static>::is::<UnderTest>) { 1 } else { 2 }
}

/// An error that blames the thing under test.
pub(crate) fn failed(text: impl Into<String>) -> anyhow::Error {
    UnderTest(text.into()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn blame_survives_context() {
        let error = Err::<(), _>(failed("no ping came back")).context("after the reboot of b").unwrap_err();
        assert_eq!(exit_code(&error), 1);
        assert_eq!(exit_code(&anyhow::anyhow!("no QEMU")), 2);
    }
}

//! Why a case failed, in words.

/// Any error, as the sentence it says.
#[derive(Debug)]
pub struct Failure(pub String);

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// What a case, or a step of it, comes to.
pub type Outcome<T = ()> = Result<T, Failure>;

/// Ends a case with a sentence, unless something holds.
#[macro_export]
macro_rules! require {
    ($condition:expr, $($sentence:tt)+) => {
        if !$condition {
            return Err($crate::failure::Failure(format!($($sentence)+)));
        }
    };
}
pub use crate::require;

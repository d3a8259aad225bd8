//! From text to a policy.

use iommu_engine::policy::Policy;
use ron::Options;
use ron::error::{Error, SpannedError};

use super::error::Fault;
use super::words::PolicyWords;

/// How deep values may be within values. A policy's are six deep.
const MOST_NESTING: usize = 16;

/// The most characters of the text that an answer repeats.
const LONGEST_QUOTE: usize = 80;

/// The policy that this text says.
///
/// # Errors
///
/// [`Fault`], where the text is none.
pub fn parse(text: &[u8]) -> Result<Policy, Fault> {
    let options = Options::default().with_recursion_limit(MOST_NESTING);
    options.from_bytes::<PolicyWords>(text).map(Into::into).map_err(|error| fault(&error))
}

fn fault(error: &SpannedError) -> Fault {
    let place = if tells_what_is_next(&error.code) { &error.span.end } else { &error.span.start };
    // It goes to terminals and into logs, whatever the text has in it.
    let plain = sentence(&error.code).replace(char::is_control, "\u{fffd}");
    Fault { line: place.line, column: place.col, sentence: plain }
}

/// Whether an error is about what comes next, and not about what has just been read.
fn tells_what_is_next(error: &Error) -> bool {
    match error {
        Error::ExpectedDifferentStructName { .. } | Error::ExpectedStringEnd => false,
        Error::ExpectedDifferentLength { .. } => false,
        Error::Eof | Error::TrailingCharacters | Error::UnexpectedChar(_) => true,
        Error::MissingStructField { .. } | Error::Utf8Error(_) => true,
        // Their names all begin alike, and they are many.
        error => format!("{error:?}").starts_with("Expected"),
    }
}

/// What is wrong, and what is allowed there.
fn sentence(error: &Error) -> String {
    match error {
        Error::NoSuchStructField { expected, found, .. } => {
            format!("there is no `{}` here, only {}", quoted(found), list(expected))
        }
        Error::NoSuchEnumVariant { expected, found, .. } => {
            format!("`{}` will not do here; it has to be {}", quoted(found), list(expected))
        }
        Error::DuplicateStructField { field, .. } => format!("`{field}` is said twice"),
        Error::MissingStructField { field, .. } => format!("`{field}` is missing before this"),
        Error::InvalidValueForType { expected, found } => {
            format!("{} will not do here; it has to be {expected}", quoted(found))
        }
        Error::ExpectedNamedStructLike(_) | Error::ExpectedStructLike => {
            "words are in parentheses, as (default: deny)".into()
        }
        Error::ExpectedDifferentStructName { found, .. } => {
            format!("`{}` has to be in parentheses, as (default: deny)", quoted(found))
        }
        Error::ExpectedIdentifier => "a word without quotes is expected here".into(),
        Error::ExpectedMapColon => "a colon is expected here".into(),
        Error::ExpectedComma => "a comma is expected here, or the end of the list".into(),
        Error::ExpectedString => "a text in quotes is expected here".into(),
        Error::ExpectedStringEnd => "the closing quote is missing".into(),
        Error::ExpectedInteger => "a number is expected here".into(),
        Error::ExpectedArray => "a list is expected here, as [ … ]".into(),
        Error::ExpectedMap => "pairs are expected here, as { 0xfed90000: \"why\" }".into(),
        Error::IntegerOutOfBounds => "no number here is negative or has more than 64 bits".into(),
        Error::InvalidIntegerDigit { base: 10, .. } => {
            "this is no number; hexadecimal ones begin with 0x".into()
        }
        Error::Eof => "the text ends before the policy does".into(),
        Error::TrailingCharacters => "nothing can come after the policy's last parenthesis".into(),
        Error::ExceededRecursionLimit => "no policy is nested so deep".into(),
        Error::Utf8Error(_) => "what follows is no text in UTF-8".into(),
        Error::Message(message) => message.clone(),
        other => quoted(&other.to_string()),
    }
}

fn list(words: &[&str]) -> String {
    let words: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    match words.as_slice() {
        [] => "nothing".into(),
        [word] => word.clone(),
        [words @ .., last] => format!("{} or {last}", words.join(", ")),
    }
}

/// A part of the text, and not much of it.
fn quoted(text: &str) -> String {
    let short: String = text.chars().take(LONGEST_QUOTE).collect();
    if short.len() < text.len() { short + "…" } else { short }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

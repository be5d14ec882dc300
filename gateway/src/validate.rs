//! What a message may say. Whatever passes here fits into Postgres: an acknowledged message must never be one that
//! can't be stored.

mod json;

use partyline_shared::wire::{ErrorCode, MAX_CONTENT_CHARS, MAX_METADATA_BYTES, Refusal};
use serde_json::value::RawValue;

use self::json::Json;
use crate::text;

/// Postgres writes `jsonb` numbers out in full: 1e300 costs every reader 300 bytes. So many more bytes than came may
/// come of all numbers together.
const MAX_WRITTEN_OUT: f64 = 4_096.0;

/// A content without the white space around it, with its bidirectional embeddings, overrides and isolates closed.
///
/// # Errors
/// `invalid_content`: nothing in it can be seen, it is longer than [`MAX_CONTENT_CHARS`] code points, or it has a control
/// character other than tab and line breaks.
pub fn content(content: &str) -> Result<String, Refusal> {
    let refuse = |why: &str| Err(Refusal::new(ErrorCode::InvalidContent, why));
    let closed = text::close_bidi(content);
    let text = closed.trim();
    if text.is_empty() {
        return refuse("content is empty");
    }
    if !text::is_visible(text) {
        return refuse("content has nothing that can be seen");
    }
    if text.chars().count() > MAX_CONTENT_CHARS {
        return refuse(&format!("content has more than {MAX_CONTENT_CHARS} characters"));
    }
    if text.chars().any(|it| it.is_control() && !matches!(it, '\n' | '\r' | '\t')) {
        return refuse("content has control characters");
    }
    Ok(text.to_owned())
}

/// Metadata as everybody will see it: the same JSON object, compact, numbers as JavaScript reads them, of a key that comes
/// twice the last.
///
/// # Errors
/// `invalid_metadata`: no object, larger than [`MAX_METADATA_BYTES`], nested too deeply, with NUL in a string, or with
/// numbers too long when written out.
pub fn metadata(raw: Option<Box<RawValue>>) -> Result<Box<RawValue>, Refusal> {
    let refuse = |why: &str| Refusal::new(ErrorCode::InvalidMetadata, why);
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else {
        return RawValue::from_string("{}".into()).map_err(|error| refuse(&error.to_string()));
    };
    if raw.get().len() > MAX_METADATA_BYTES {
        return Err(refuse(&format!("metadata has more than {MAX_METADATA_BYTES} bytes")));
    }
    // serde_json stops at a depth of 128.
    let value: Json = serde_json::from_str(raw.get()).map_err(|error| refuse(&format!("metadata: {error}")))?;
    if !matches!(value, Json::Object(_)) {
        return Err(refuse("metadata is not an object"));
    }
    if written_out(&value).map_err(refuse)? > MAX_WRITTEN_OUT {
        return Err(refuse("metadata has numbers too large or too small"));
    }
    serde_json::value::to_raw_value(&value).map_err(|error| refuse(&error.to_string()))
}

/// The digits that Postgres adds to the numbers, or why it can't hold the value.
fn written_out(value: &Json) -> Result<f64, &'static str> {
    const NUL: &str = "metadata has a NUL character";
    match value {
        Json::Null | Json::Bool(_) => Ok(0.0),
        Json::Number(number) => {
            let digits = number.as_f64().map_or(0.0, |number| number.abs().log10().abs());
            Ok(if digits.is_finite() { digits } else { 0.0 })
        }
        Json::String(text) => (!text.contains('\0')).then_some(0.0).ok_or(NUL),
        Json::Array(items) => items.iter().map(written_out).sum(),
        Json::Object(fields) => {
            fields.iter().map(|(name, value)| if name.contains('\0') { Err(NUL) } else { written_out(value) }).sum()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> bool {
        content(text).is_err_and(|refusal| refusal.code == ErrorCode::InvalidContent)
    }

    #[test]
    fn content_is_trimmed_and_counted_in_code_points() {
        assert_eq!(content(" \n hi\tthere\nyou \u{2003}").unwrap(), "hi\tthere\nyou");
        assert!(content(&"\u{1F600}".repeat(1_000)).is_ok());
        assert!(content(&format!(" {} ", "x".repeat(1_000))).is_ok());
        assert!(refused(&"x".repeat(1_001)));
        for bad in ["", " \n ", "a\0b", "a\u{1b}[0m", "a\u{85}b"] {
            assert!(refused(bad), "{bad:?}");
        }
    }

    #[test]
    fn content_can_be_seen_and_ends_its_bidirectional_overrides() {
        for bad in ["\u{200B}", " \u{2060}\u{FEFF}\n", "\u{3164}", "\u{2800}", "\u{AD}", "\u{FE0F}", "\u{202E}"] {
            assert!(refused(bad), "{bad:?}");
        }
        assert_eq!(
            content("\u{2764}\u{FE0F} \u{1F469}\u{200D}\u{1F680}").unwrap(),
            "\u{2764}\u{FE0F} \u{1F469}\u{200D}\u{1F680}"
        );
        assert_eq!(content("\u{202E}gpj.exe ").unwrap(), "\u{202E}gpj.exe \u{202C}");
        assert_eq!(content(" hi \u{202C}").unwrap(), "hi");
        // The end that is added counts, as Postgres counts it.
        assert!(content(&format!("\u{202E}{}", "x".repeat(998))).is_ok());
        assert!(refused(&format!("\u{202E}{}", "x".repeat(999))));
    }

    fn meta(text: &str) -> Result<String, ErrorCode> {
        metadata(Some(RawValue::from_string(text.into()).unwrap()))
            .map(|raw| raw.get().to_owned())
            .map_err(|refusal| refusal.code)
    }

    #[test]
    fn metadata_is_one_bounded_object_that_postgres_can_hold() {
        assert_eq!(metadata(None).unwrap().get(), "{}");
        assert_eq!(meta("null").unwrap(), "{}");
        assert_eq!(meta("{ \"b\" : [1, 2.50, -0.0, \"x\"] }").unwrap(), "{\"b\":[1,2.5,-0.0,\"x\"]}");
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_METADATA_BYTES));
        let wide = format!("{{\"a\":[{}1]}}", "1e300,".repeat(20));
        let bad = [
            "[]",
            "7",
            "\"x\"",
            "{\"a\":\"\\u0000\"}",
            "{\"\\u0000\":1}",
            "{\"a\":\"\\ud800\"}",
            "{\"a\":1e400}",
            &deep,
            &long,
            &wide,
        ];
        for text in bad {
            assert_eq!(meta(text), Err(ErrorCode::InvalidMetadata), "{}", &text[..text.len().min(40)]);
        }
        assert_eq!(meta("{\"a\":[1e+300,-3e-154]}").unwrap(), "{\"a\":[1e+300,-3e-154]}");
        // No key means anything to us: serde_json's own type reads JSON out of the string after some.
        for key in ["RawValue", "Number"] {
            for json in [
                format!("{{\"$serde_json::private::{key}\":\"{{\\\"is_admin\\\":true}}\"}}"),
                format!("{{\"$serde_json::private::{key}\":\"5\",\"z\":1}}"),
                format!("{{\"a\":[{{\"$serde_json::private::{key}\":5}}]}}"),
            ] {
                assert_eq!(meta(&json).as_ref(), Ok(&json));
            }
        }
        assert_eq!(meta("{\"b\":1,\"a\":2,\"b\":3}").unwrap(), "{\"a\":2,\"b\":3}");
        // Too small for a double: 0, as JavaScript reads it.
        assert_eq!(meta("{\"a\":1e-20000}").unwrap(), "{\"a\":0.0}");
    }
}

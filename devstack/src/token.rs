//! Tokens for demo people and tests (HS256).

use jsonwebtoken::{EncodingKey, Header};
use partyline_shared::claims::{Claims, UserType};
use time::OffsetDateTime;

/// A token that ends in `seconds` (negative: ended already).
///
/// # Errors
/// If signing fails.
pub fn mint(
    secret: &str,
    user_id: &str,
    username: &str,
    user_type: UserType,
    scope: Option<&str>,
    seconds: i64,
) -> anyhow::Result<String> {
    let iat = OffsetDateTime::now_utc().unix_timestamp();
    sign(
        secret,
        &Claims {
            sub: user_id.into(),
            username: username.into(),
            user_type,
            iat,
            exp: iat + seconds,
            scope: scope.map(Into::into),
        },
    )
}

/// Signs any claims, so that tests can make odd ones.
///
/// # Errors
/// If signing fails.
pub fn sign(secret: &str, claims: &impl serde::Serialize) -> anyhow::Result<String> {
    Ok(jsonwebtoken::encode(&Header::default(), claims, &EncodingKey::from_secret(secret.as_bytes()))?)
}

/// 32 random bytes in hexadecimal, from the kernel.
///
/// # Errors
/// If the kernel has none.
pub fn random_secret() -> std::io::Result<String> {
    use std::{fmt::Write, io::Read};
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

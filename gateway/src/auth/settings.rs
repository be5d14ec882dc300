//! How tokens are checked.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use jsonwebtoken::Algorithm;

use super::keys::KeySet;

/// A shared secret; never shown.
#[derive(Clone)]
pub struct Secret(String);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// The one algorithm that tokens must be signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum JwtAlgorithm {
    #[value(name = "HS256")]
    Hs256,
    #[value(name = "RS256")]
    Rs256,
    #[value(name = "ES256")]
    Es256,
    #[value(name = "EdDSA")]
    EdDsa,
}

impl JwtAlgorithm {
    pub(super) fn algorithm(self) -> Algorithm {
        match self {
            Self::Hs256 => Algorithm::HS256,
            Self::Rs256 => Algorithm::RS256,
            Self::Es256 => Algorithm::ES256,
            Self::EdDsa => Algorithm::EdDSA,
        }
    }
}

/// Shortest secret for HS256, in bytes: as long as the hash (RFC 7518, section 3.2).
const MIN_SECRET_BYTES: usize = 32;

/// Who vouches for users.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Tokens")]
pub struct AuthSettings {
    /// The secret of HS256 tokens, at least 32 bytes.
    #[arg(long, env = "PARTYLINE_JWT_SECRET", hide_env_values = true)]
    pub jwt_secret: Option<Secret>,
    /// The algorithm that every token must be signed with.
    #[arg(long, env = "PARTYLINE_JWT_ALGORITHM", value_enum, ignore_case = true, default_value_t = JwtAlgorithm::Hs256)]
    pub jwt_algorithm: JwtAlgorithm,
    /// A file with the public keys (JWKS); read again when it changes.
    #[arg(long, env = "PARTYLINE_JWKS_FILE")]
    pub jwks_file: Option<PathBuf>,
    /// Where the public keys (JWKS) are fetched from.
    #[arg(long, env = "PARTYLINE_JWKS_URL")]
    pub jwks_url: Option<String>,
    /// A file in which the keys of `PARTYLINE_JWKS_URL` are kept, so that a gateway can start while the identity
    /// provider is down. Its folder must exist, and be writable by the gateway alone: whoever writes the file can
    /// forge tokens.
    #[arg(long, env = "PARTYLINE_JWKS_CACHE_FILE")]
    pub jwks_cache_file: Option<PathBuf>,
    /// Seconds between fetches of the public keys. An unknown key id fetches them too, 5 s after
    /// the fetch before at the earliest; a token waits for that.
    #[arg(long, env = "PARTYLINE_JWKS_REFRESH_SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub jwks_refresh_seconds: u32,
    /// The claim that holds the user's id, a string or a whole number.
    #[arg(long, env = "PARTYLINE_JWT_USER_CLAIM", default_value = "sub")]
    pub jwt_user_claim: String,
    /// The issuer (`iss`) that every token must name.
    #[arg(long, env = "PARTYLINE_JWT_ISSUER")]
    pub jwt_issuer: Option<String>,
    /// The audience (`aud`) that every token must name. Without this setting `aud` is not looked at, and a token that the
    /// same issuer made for another service is taken, too.
    #[arg(long, env = "PARTYLINE_JWT_AUDIENCE")]
    pub jwt_audience: Option<String>,
    /// How far clocks may differ when `exp` and `nbf` are checked, in seconds.
    #[arg(long, env = "PARTYLINE_JWT_LEEWAY_SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=600))]
    pub jwt_leeway_seconds: u32,
}

impl AuthSettings {
    pub(super) fn secret_bytes(&self) -> &[u8] {
        self.jwt_secret.as_ref().map_or(&[], |secret| secret.0.as_bytes())
    }

    /// What is wrong across fields.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(path) = &self.jwks_cache_file {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            if self.jwks_url.is_none() {
                problems.push("PARTYLINE_JWKS_CACHE_FILE: only with PARTYLINE_JWKS_URL".into());
            } else if folder.is_some_and(|folder| !folder.is_dir()) {
                problems.push(format!("PARTYLINE_JWKS_CACHE_FILE: no folder for {}", path.display()));
            }
        }
        if self.jwt_user_claim.is_empty() {
            problems.push("PARTYLINE_JWT_USER_CLAIM: empty".into());
        }
        if self.jwt_algorithm == JwtAlgorithm::Hs256 {
            match &self.jwt_secret {
                None => problems.push("PARTYLINE_JWT_SECRET: needed with HS256".into()),
                Some(Secret(secret)) if secret.len() < MIN_SECRET_BYTES => problems.push(format!(
                    "PARTYLINE_JWT_SECRET: {} bytes; HS256 needs at least {MIN_SECRET_BYTES}",
                    secret.len()
                )),
                Some(_) => {}
            }
            if self.jwks_file.is_some() || self.jwks_url.is_some() {
                problems.push("PARTYLINE_JWT_ALGORITHM: HS256 takes a secret, not a JWKS".into());
            }
            return problems;
        }
        match (&self.jwks_file, &self.jwks_url) {
            (None, None) => problems.push(format!(
                "PARTYLINE_JWKS_FILE or PARTYLINE_JWKS_URL: needed with {:?}",
                self.jwt_algorithm.algorithm()
            )),
            (Some(_), Some(_)) => problems.push("PARTYLINE_JWKS_FILE and PARTYLINE_JWKS_URL: one of them only".into()),
            (Some(path), None) => {
                let read = std::fs::read(path).map_err(anyhow::Error::from);
                if let Err(error) = read.and_then(|json| KeySet::from_jwks(&json, self.jwt_algorithm)) {
                    problems.push(format!("PARTYLINE_JWKS_FILE: {}: {error:#}", path.display()));
                }
            }
            (None, Some(url)) => {
                if !reqwest::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "https" | "http")) {
                    problems.push("PARTYLINE_JWKS_URL: not an http(s) URL".into());
                }
            }
        }
        problems
    }
}

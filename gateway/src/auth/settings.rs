//! How tokens are checked.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use jsonwebtoken::Algorithm;
pub use partyline_shared::secret::Secret;

use super::keys::KeySet;

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
    /// A file with secrets of HS256 tokens, one a line; a token of any of them is taken. Read again when it changes.
    #[arg(long, env = "PARTYLINE_JWT_SECRET_FILE")]
    pub jwt_secret_file: Option<PathBuf>,
    /// Further secrets of HS256 tokens, comma-separated: the old or the next one while secrets change.
    #[arg(long, env = "PARTYLINE_JWT_EXTRA_SECRETS", value_delimiter = ',', hide_env_values = true)]
    pub jwt_extra_secrets: Vec<Secret>,
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
    /// Returns the secrets of the settings themselves and of the file, which is read anew.
    ///
    /// # Errors
    /// One sentence that names the setting that is wrong.
    pub(super) fn secrets(&self) -> Result<Vec<Secret>, String> {
        let is_set = |secret: &&Secret| !secret.reveal().is_empty();
        let own =
            self.jwt_secret.iter().filter(is_set).map(|secret| ("PARTYLINE_JWT_SECRET".to_owned(), secret.clone()));
        let extra = self.jwt_extra_secrets.iter().filter(is_set);
        let extra = extra.map(|secret| ("PARTYLINE_JWT_EXTRA_SECRETS".to_owned(), secret.clone()));
        let mut secrets: Vec<_> = own.chain(extra).collect();
        if let Some(path) = &self.jwt_secret_file {
            if self.jwt_secret.as_ref().is_some_and(|secret| is_set(&secret)) {
                return Err("PARTYLINE_JWT_SECRET and PARTYLINE_JWT_SECRET_FILE: one of them only".into());
            }
            secrets.extend(read_secrets(path)?);
        }
        for (setting, secret) in &secrets {
            let length = secret.reveal().len();
            if length < MIN_SECRET_BYTES {
                return Err(format!("{setting}: {length} bytes; HS256 needs at least {MIN_SECRET_BYTES}"));
            }
        }
        if secrets.is_empty() {
            Err("PARTYLINE_JWT_SECRET or PARTYLINE_JWT_SECRET_FILE: needed with HS256".into())
        } else {
            Ok(secrets.into_iter().map(|(_, secret)| secret).collect())
        }
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
            problems.extend(self.secrets().err());
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

/// Reads secrets, one a line; each comes with its place for messages.
fn read_secrets(path: &Path) -> Result<Vec<(String, Secret)>, String> {
    let setting = format!("PARTYLINE_JWT_SECRET_FILE: {}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| format!("{setting}: {error}"))?;
    let lines = text.lines().map(str::trim_end).enumerate().filter(|(_, line)| !line.is_empty());
    let secrets: Vec<_> =
        lines.map(|(n, line)| (format!("{setting}: line {}", n + 1), Secret::from(line.to_owned()))).collect();
    if secrets.is_empty() { Err(format!("{setting}: no secret in it")) } else { Ok(secrets) }
}

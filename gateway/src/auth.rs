//! From a token to an [`Identity`]. The algorithm is pinned by configuration: a token's own header chooses
//! nothing but which of the configured keys to try.

mod claims;
mod keys;
mod settings;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use axum::http::{
    HeaderMap,
    header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL},
};
use jsonwebtoken::{DecodingKey, Validation, errors::ErrorKind};
use partyline_shared::{
    claims::Identity,
    wire::{BEARER_SUBPROTOCOL_PREFIX, ErrorCode, Refusal},
};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

pub use self::settings::{AuthSettings, JwtAlgorithm, Secret};
use self::{
    claims::Payload,
    keys::{KeySet, Source},
};
use crate::tasks;

/// Unknown key ids make the gateway look for new keys at most this often.
const ASKED_GAP: Duration = Duration::from_secs(5);
/// How often a file's date is looked at; its content is read only if that changed.
const FILE_GLANCE: Duration = Duration::from_secs(5);

/// Checks tokens against the keys of the configured source, which may change while it runs.
pub struct Verifier {
    validation: Validation,
    user_claim: String,
    leeway: i64,
    keys: ArcSwap<KeySet>,
    source: Option<Mutex<Refresher>>,
}

struct Refresher {
    source: Source,
    asked: Option<Instant>,
}

/// Why a token was not taken.
enum Failure {
    /// Signed by a key that this node does not know (yet).
    UnknownKey,
    Refused(Refusal),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::UnknownKey => invalid("the token's key is unknown"),
            Failure::Refused(refusal) => refusal,
        }
    }
}

fn invalid(message: &str) -> Refusal {
    Refusal::new(ErrorCode::TokenInvalid, message)
}

impl Verifier {
    /// Loads the keys and keeps them fresh until `shutdown`.
    ///
    /// # Errors
    /// If the settings are wrong, or the first load of the JWKS fails.
    pub async fn start(settings: &AuthSettings, shutdown: CancellationToken) -> anyhow::Result<Arc<Self>> {
        let algorithm = settings.jwt_algorithm.algorithm();
        let mut validation = Validation::new(algorithm);
        validation.leeway = u64::from(settings.jwt_leeway_seconds);
        // RFC 7519, section 4.1.4: a token ends at `exp`, not after it.
        validation.reject_tokens_expiring_in_less_than = 1;
        validation.validate_nbf = true;
        let mut required = vec!["exp"];
        if let Some(issuer) = &settings.jwt_issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        if let Some(audience) = &settings.jwt_audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);

        let mut source = Source::new(settings)?;
        let keys = match &mut source {
            Some(source) => source.load().await?.unwrap_or_default(),
            None => KeySet::shared_secret(settings.secret_bytes()),
        };
        let verifier = Arc::new(Self {
            validation,
            user_claim: settings.jwt_user_claim.clone(),
            leeway: i64::from(settings.jwt_leeway_seconds),
            keys: ArcSwap::from_pointee(keys),
            source: source.map(|source| Mutex::new(Refresher { source, asked: None })),
        });
        if verifier.source.is_some() {
            let every = Duration::from_secs(u64::from(settings.jwks_refresh_seconds));
            let every = if settings.jwks_file.is_some() { every.min(FILE_GLANCE) } else { every };
            let fresh = verifier.clone();
            let task = move || fresh.clone().keep_fresh(every);
            tokio::spawn(async move { shutdown.run_until_cancelled(tasks::restarting("jwks", task)).await });
        }
        Ok(verifier)
    }

    async fn keep_fresh(self: Arc<Self>, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            if let Some(refresher) = &self.source {
                self.reload(&mut refresher.lock().await.source).await;
            }
        }
    }

    async fn reload(&self, source: &mut Source) {
        match source.load().await {
            Ok(Some(keys)) => {
                tracing::debug!(keys = keys.len(), "JWKS read");
                self.keys.store(Arc::new(keys));
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(error = format!("{error:#}"), "JWKS not read; the old keys stay in force"),
        }
    }

    /// Looks for keys newer than `seen`, unless somebody just did.
    async fn look_for(&self, seen: &Arc<KeySet>) {
        let Some(refresher) = &self.source else { return };
        let mut refresher = refresher.lock().await;
        if !Arc::ptr_eq(&self.keys.load(), seen) || refresher.asked.is_some_and(|at| at.elapsed() < ASKED_GAP) {
            return;
        }
        refresher.asked = Some(Instant::now());
        self.reload(&mut refresher.source).await;
    }

    /// Checks a token; waits for new keys if the token's is unknown, so that a rotation refuses nobody.
    ///
    /// # Errors
    /// `token_invalid`, `token_expired`.
    pub async fn verify_or_refresh(&self, token: &str) -> Result<Identity, Refusal> {
        let seen = self.keys.load_full();
        match self.check(token) {
            Err(Failure::UnknownKey) => {
                self.look_for(&seen).await;
                Ok(self.check(token)?)
            }
            other => Ok(other?),
        }
    }

    /// The bearer of a request: `Authorization`, else the WebSocket subprotocol `bearer.<jwt>`.
    ///
    /// # Errors
    /// `token_invalid`, `token_expired`.
    pub async fn from_headers_or_refresh(&self, headers: &HeaderMap) -> Result<Identity, Refusal> {
        self.verify_or_refresh(bearer(headers)?).await
    }

    fn check(&self, token: &str) -> Result<Identity, Failure> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| Failure::Refused(invalid("not a JWT")))?;
        if !self.validation.algorithms.contains(&header.alg) {
            return Err(Failure::Refused(invalid("the token is signed with another algorithm than this server takes")));
        }
        // RFC 7515, section 4.1.11: an extension that must be understood, and is not.
        if header.crit.is_some() {
            return Err(Failure::Refused(invalid("the token has critical extensions")));
        }
        let keys = self.keys.load();
        let named = header.kid.as_deref().is_some_and(|id| keys.names(id));
        let mut failure = Failure::UnknownKey;
        for key in keys.candidates(header.kid.as_deref()) {
            match self.check_with(token, key) {
                Ok(payload) => {
                    return payload.identity(&self.user_claim, self.leeway).map_err(Failure::Refused);
                }
                // Another key may be the right one, unless the token named this one.
                Err(ErrorKind::InvalidSignature) if self.source.is_some() && !named => {}
                Err(kind) => {
                    failure = Failure::Refused(refusal(&kind));
                    break;
                }
            }
        }
        Err(failure)
    }

    fn check_with(&self, token: &str, key: &DecodingKey) -> Result<Payload, ErrorKind> {
        jsonwebtoken::decode::<Payload>(token, key, &self.validation)
            .map(|data| data.claims)
            .map_err(|error| error.into_kind())
    }
}

fn refusal(kind: &ErrorKind) -> Refusal {
    match kind {
        ErrorKind::ExpiredSignature => Refusal::new(ErrorCode::TokenExpired, "the token has expired"),
        ErrorKind::ImmatureSignature => invalid("the token is not valid yet"),
        ErrorKind::InvalidSignature => invalid("the token's signature does not verify"),
        ErrorKind::InvalidIssuer => invalid("the token comes from another issuer"),
        ErrorKind::InvalidAudience => invalid("the token is meant for another audience"),
        ErrorKind::MissingRequiredClaim(claim) => invalid(&format!("the token lacks the claim {claim:?}")),
        ErrorKind::InvalidClaimFormat(claim) => invalid(&format!("the token's claim {claim:?} has the wrong type")),
        _ => invalid("not a valid JWT"),
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, Refusal> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let text = value.to_str().map_err(|_| invalid("Authorization is no text"))?;
        return match text.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
            _ => Err(invalid("Authorization is not Bearer")),
        };
    }
    headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|entry| entry.trim().strip_prefix(BEARER_SUBPROTOCOL_PREFIX))
        .ok_or_else(|| invalid("a token is needed: Authorization: Bearer, or the subprotocol bearer.<jwt>"))
}

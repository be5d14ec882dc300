//! Connections to NATS by URL.

use async_nats::{Client, ConnectOptions, ServerAddr};

/// Connects with the user and password that the URL holds: `async_nats::connect` leaves them out.
///
/// # Errors
/// If the server can't be reached, or refuses.
pub async fn connect(url: &str) -> anyhow::Result<Client> {
    let addr: ServerAddr = url.parse()?;
    let options = match (addr.username(), addr.password()) {
        (Some(user), Some(password)) => ConnectOptions::with_user_and_password(user.into(), password.into()),
        _ => ConnectOptions::new(),
    };
    Ok(options.connect(addr).await?)
}

//! A socket for one task that asks and waits for the answer, as a browser's page does.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};

use super::{Conn, Ended, Listener, open, start};
use crate::{incoming::Incoming, target::Gateway};

const PATIENCE: Duration = Duration::from_secs(30);
/// The `ref` under which the greeting is kept.
const WELCOME: &str = "welcome";

/// Done, or the code or kind of what went wrong.
pub(crate) type Asked = Result<(), String>;

/// An open socket that is asked one thing at a time.
pub(crate) struct Session {
    conn: Arc<Conn>,
    answers: mpsc::UnboundedReceiver<(String, Asked)>,
    asked: u64,
}

struct Ear<H> {
    answers: mpsc::UnboundedSender<(String, Asked)>,
    hear: H,
}

impl Session {
    /// Connects, and waits for the greeting. `hear` gets every frame before whoever waits for it, with its size and the
    /// time at which it was read.
    ///
    /// # Errors
    /// What went wrong, in few words.
    pub(crate) async fn open(
        gateway: &Gateway,
        source: Option<Ipv4Addr>,
        token: &str,
        hear: impl FnMut(&Incoming<'_>, usize, u64) + Send + 'static,
    ) -> Result<Self, String> {
        let opened = open(gateway, source, token).await?;
        let (tell, answers) = mpsc::unbounded_channel();
        let conn = start(opened, Ear { answers: tell, hear });
        let mut session = Self { conn, answers, asked: 0 };
        session.answer(WELCOME).await?;
        Ok(session)
    }

    /// Sends a frame with a `ref`, and waits for its answer.
    ///
    /// # Errors
    /// The code of a refusal, or what became of the socket.
    pub(crate) async fn ask(&mut self, mut frame: Value) -> Asked {
        self.asked += 1;
        let reference = self.asked.to_string();
        frame["ref"] = json!(reference);
        self.tell(&frame)?;
        self.answer(&reference).await
    }

    /// Sends a frame that has no answer.
    ///
    /// # Errors
    /// What became of the socket.
    pub(crate) fn tell(&self, frame: &Value) -> Result<(), String> {
        self.conn.send(frame.to_string().as_bytes()).map_err(|error| error.kind().to_string())
    }

    /// Whether the socket is gone.
    pub(crate) fn has_ended(&self) -> bool {
        self.answers.is_closed()
    }

    /// Cuts it off without a word.
    pub(crate) fn cut(&self) {
        self.conn.cut();
    }

    pub(crate) fn close(&self) {
        self.conn.close();
    }

    async fn answer(&mut self, reference: &str) -> Asked {
        let wait = async {
            loop {
                match self.answers.recv().await {
                    // Answers to what was given up come late.
                    Some((to, _)) if to != reference && !to.is_empty() => {}
                    Some((_, answer)) => return answer,
                    None => return Err("socket ended".into()),
                }
            }
        };
        timeout(PATIENCE, wait).await.unwrap_or_else(|_| Err("no answer".into()))
    }
}

impl<H: FnMut(&Incoming<'_>, usize, u64) + Send + 'static> Listener for Ear<H> {
    fn text(&mut self, _: &Arc<Conn>, json: &[u8], size: usize, at: u64) {
        let Some(frame) = Incoming::parse(json) else { return };
        (self.hear)(&frame, size, at);
        let reference = if frame.kind == WELCOME { Some(WELCOME) } else { frame.reference() };
        let answer = match (&*frame.kind, reference) {
            ("error", _) => Err(frame.code.unwrap_or_else(|| "error without a code".into())),
            (_, Some(_)) => Ok(()),
            _ => return,
        };
        // A refusal without a `ref` answers whatever is being asked.
        let _ = self.answers.send((reference.unwrap_or_default().to_owned(), answer));
    }

    fn ended(&mut self, why: &Ended) {
        let _ = self.answers.send((String::new(), Err(why.to_string())));
    }
}

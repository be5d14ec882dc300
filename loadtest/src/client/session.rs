//! A socket for one task that asks and waits for the answer, as a browser's page does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

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
    heard: Arc<Heard>,
    asked: u64,
}

/// What came without being asked for.
#[derive(Debug, Default)]
struct Heard {
    last_seq: AtomicU64,
}

struct Ear {
    answers: mpsc::UnboundedSender<(String, Asked)>,
    heard: Arc<Heard>,
}

impl Session {
    /// Connects, and waits for the greeting.
    ///
    /// # Errors
    /// What went wrong, in few words.
    pub(crate) async fn open(gateway: &Gateway, token: &str) -> Result<Self, String> {
        let opened = open(gateway, None, token).await?;
        let (tell, answers) = mpsc::unbounded_channel();
        let heard = Arc::new(Heard::default());
        let conn = start(opened, Ear { answers: tell, heard: heard.clone() });
        let mut session = Self { conn, answers, heard, asked: 0 };
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

    /// The highest `seq` heard of.
    pub(crate) fn last_seq(&self) -> u64 {
        self.heard.last_seq.load(Relaxed)
    }

    /// Whether the socket is gone.
    pub(crate) fn has_ended(&self) -> bool {
        self.answers.is_closed()
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

impl Listener for Ear {
    fn text(&mut self, _: &Arc<Conn>, json: &[u8], _: usize, _: u64) {
        let Some(frame) = Incoming::parse(json) else { return };
        if let Some(seq) = frame.seq {
            self.heard.last_seq.fetch_max(seq, Relaxed);
        }
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
        let why = match why {
            Ended::ByUs => "closed".into(),
            Ended::ByServer(code) => format!("close {code}"),
            Ended::Broken(how) => how.clone(),
        };
        let _ = self.answers.send((String::new(), Err(why)));
    }
}

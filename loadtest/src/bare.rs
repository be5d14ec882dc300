//! `bare`: the least that a server can do for a delivery, one write(2) a socket. It says over its standard output
//! where it listens, starts when told over its standard input, and ends with it.

use std::{
    io::{self, BufRead, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{ChildStdout, Command},
};

use crate::{
    client::{self, Opened},
    limits,
    marker::Marker,
    member::Member,
    openloop::{settle, watch},
    pacer::{self, Schedule},
    proc,
    room::Cost,
    tally::Tally,
};

/// From the word to start to the first message.
const LEAD: Duration = Duration::from_millis(100);
const GRACE: Duration = Duration::from_secs(10);
/// Answers of the server process.
const LISTENING: &str = "listening ";
const COMPLETE: &str = "complete";
const DONE: &str = "done ";

/// The kernel's floor for a delivery: a server that does one write(2) of a frame to each socket, and nothing else.
///
/// `room` runs it as a process of its own and connects to it; by itself it is of little use.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Sockets to wait for, and to write each message to.
    #[arg(long, value_name = "N")]
    pub(crate) members: u32,
    /// Messages a second.
    #[arg(long, value_parser = crate::openloop::rate, value_name = "N")]
    pub(crate) rate: f64,
    /// For how long, in seconds.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) seconds: u32,
    /// A frame's size, in bytes.
    #[arg(long, value_name = "BYTES")]
    pub(crate) size: u64,
    /// Stands in every message.
    #[arg(long, default_value_t = 0)]
    pub(crate) run: u32,
}

/// Serves: the `bare` subcommand itself.
///
/// # Errors
/// If it can't listen, or who started it is gone.
pub(crate) fn serve(options: &Options) -> anyhow::Result<()> {
    limits::make_room(options.members as usize, &[])?;
    let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    say(&format!("{LISTENING}{}", listener.local_addr()?))?;
    let mut sockets = Vec::new();
    for _ in 0..options.members {
        let (socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        sockets.push(socket);
    }
    say(COMPLETE)?;
    let mut words = io::stdin().lock().lines();
    if words.next().transpose()?.is_none() {
        return Ok(());
    }
    let mut unwritten = 0_u64;
    let mut wire = Vec::new();
    Schedule::after(LEAD, options.rate, options.seconds).run(|number, due| {
        frame(options, number, due, &mut wire);
        unwritten += sockets.iter_mut().map(|socket| write(socket, &wire)).sum::<u64>();
    });
    say(&format!("{DONE}{unwritten}"))?;
    // The times in /proc go with the process: it waits until they are read.
    words.next();
    Ok(())
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// One write, as a server does it that has nothing queued; how many frames it failed to take.
fn write(socket: &mut TcpStream, wire: &[u8]) -> u64 {
    u64::from(socket.write(wire).ok() != Some(wire.len()))
}

/// A frame that clients read as they read the gateway's, of the size wanted.
fn frame(options: &Options, number: u32, due: u64, wire: &mut Vec<u8>) {
    let seq = u64::from(number) + 1;
    let marker = Marker { run: options.run, number, due };
    let json = |size: usize| {
        let content = marker.content(size);
        format!("{{\"type\":\"new_message\",\"seq\":{seq},\"prev_seq\":{number},\"content\":\"{content}\"}}")
    };
    // A frame is so much longer than its content.
    client::encode_bare(json(0).as_bytes(), wire);
    let head = json(1_000).len() - 1_000 + if options.size > 127 { 4 } else { 2 };
    wire.clear();
    client::encode_bare(json((options.size as usize).saturating_sub(head)).as_bytes(), wire);
}

/// Runs a bare server and as many clients as the options tell.
///
/// # Errors
/// If the server doesn't start, or doesn't get everything written.
pub(crate) async fn measure(options: Options, connecting: usize) -> anyhow::Result<Cost> {
    let Options { members, rate, seconds, size, .. } = options;
    let tally = Arc::new(Tally::new(pacer::total(rate, seconds), members, Vec::new()));
    let mut server = Command::new(std::env::current_exe()?)
        .arg("bare")
        .args(["--members", &members.to_string(), "--rate", &rate.to_string()])
        .args(["--seconds", &seconds.to_string(), "--size", &size.to_string(), "--run", &tally.run.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let pid = [server.id().context("the bare server ended")?];
    let mut words = server.stdin.take().context("no way to the bare server")?;
    let mut answers = BufReader::new(server.stdout.take().context("no way from the bare server")?).lines();
    let addr: SocketAddr = answer(&mut answers, LISTENING).await?.parse()?;
    let _conns: Vec<_> = stream::iter(0..members)
        .map(|seat| connect(addr, seat, &tally))
        .buffer_unordered(connecting)
        .try_collect()
        .await
        .map_err(|error| anyhow::anyhow!("the bare server: {error}"))?;
    answer(&mut answers, COMPLETE).await?;
    let before = proc::cpu(&pid)?;
    words.write_all(b"start\n").await?;
    eprintln!("bare write(2):");
    let mut answers = watch(
        &tally,
        tokio::spawn(async move {
            let unwritten = answer(&mut answers, DONE).await;
            unwritten.map(|unwritten| (unwritten, answers))
        }),
        || None,
    )
    .await??;
    let cpu = proc::cpu(&pid)?.saturating_sub(before);
    tally.assume_acked();
    settle(&tally, GRACE).await;
    let missing = tally.outcome().missing;
    if answers.0 != "0" || missing > 0 {
        bail!("the clients are too slow for this rate: {} frames not written, {missing} not received", answers.0);
    }
    drop(words);
    let _ = answers.1.next_line().await;
    server.wait().await?;
    Ok(Cost::new(&tally, cpu))
}

async fn connect(addr: SocketAddr, seat: u32, tally: &Arc<Tally>) -> Result<Arc<client::Conn>, String> {
    let stream = client::open_tcp(addr, limits::source(seat as usize, addr)).await?;
    let (member, _) = Member::new(seat, tally.clone(), None);
    Ok(client::start(Opened { stream, early: Vec::new(), socketio: None }, member))
}

/// The rest of the server's next line, which begins as given.
async fn answer(lines: &mut Lines<BufReader<ChildStdout>>, beginning: &str) -> anyhow::Result<String> {
    let line = lines.next_line().await?.context("the bare server ended")?;
    Ok(line.strip_prefix(beginning).with_context(|| format!("the bare server says {line:?}"))?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_the_size_that_was_asked_for() {
        for (size, number, due) in [(127, 0, 1), (200, 0, 1), (457, 9, 7), (457, 4_000_000, u64::MAX), (1_200, 1, 1)] {
            let mut wire = Vec::new();
            frame(&Options { members: 1, rate: 1.0, seconds: 1, size, run: 7 }, number, due, &mut wire);
            let smallest = 118;
            assert!(wire.len() as u64 == size || size < smallest, "{} for {size}", wire.len());
        }
    }
}

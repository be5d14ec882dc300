//! The pipe under random schedules of its writers and its task. Shuttle fails a schedule in which every thread waits, so
//! a lost wake-up of the task is a failure of each of these tests.

use std::sync::Arc;

use futures_util::future::{FutureExt, select};
use shuttle::{
    future::block_on,
    thread::{self, JoinHandle},
};

use super::*;
use crate::sync::explore;

const ROUNDS: usize = 300;
const LIMIT: u32 = 1 << 20;

/// A socket whose kernel buffer takes `room` bytes until its reader reads.
#[derive(Debug)]
struct Socket {
    kernel: Mutex<Kernel>,
    writable: Notify,
    readable: Notify,
}

#[derive(Debug, Default)]
struct Kernel {
    got: Vec<u8>,
    room: usize,
    broken: bool,
}

impl Wire for Socket {
    fn try_write_vectored(&self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let mut kernel = self.kernel.lock();
        if kernel.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if kernel.room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).take(kernel.room).collect();
        kernel.room -= all.len();
        kernel.got.extend_from_slice(&all);
        self.readable.notify_one();
        Ok(all.len())
    }

    fn goodbye(code: CloseCode, special: Option<&str>, retry_after_ms: Option<u64>) -> Bytes {
        encode::close(code, special, retry_after_ms)
    }
}

impl Socket {
    async fn wait_writable(&self) {
        loop {
            let notified = self.writable.notified();
            let kernel = self.kernel.lock();
            if kernel.room > 0 || kernel.broken {
                return;
            }
            drop(kernel);
            notified.await;
        }
    }

    /// The reader reads: the buffer takes `bytes` more.
    fn read(&self, bytes: usize) {
        self.kernel.lock().room += bytes;
        self.writable.notify_one();
    }

    fn fail(&self) {
        self.kernel.lock().broken = true;
        self.writable.notify_one();
    }
}

fn pipe(room: usize, limit: u32) -> Arc<Pipe<Socket>> {
    let kernel = Mutex::new(Kernel { room, ..Kernel::default() });
    Arc::new(Pipe::new(Socket { kernel, writable: Notify::new(), readable: Notify::new() }, limit))
}

/// The connection's task, as `ws::task` and `socketio::socket` have it, until it may end.
fn run_task(pipe: &Arc<Pipe<Socket>>, idle: &Arc<AtomicBool>) -> JoinHandle<()> {
    let (pipe, idle) = (pipe.clone(), idle.clone());
    thread::spawn(move || {
        block_on(async {
            loop {
                let duty = pipe.duty(idle.load(Ordering::Acquire));
                if duty == Duty::Finish || pipe.is_gone() {
                    return;
                }
                let woken = std::pin::pin!(pipe.woken());
                if duty == Duty::Write {
                    let writable = std::pin::pin!(pipe.wire().wait_writable());
                    let writable =
                        select(writable, woken).map(|first| matches!(first, futures_util::future::Either::Left(_)));
                    if writable.await {
                        pipe.write_more();
                    }
                } else {
                    woken.await;
                }
            }
        });
    })
}

fn spawn(pipe: &Arc<Pipe<Socket>>, run: impl FnOnce(&Pipe<Socket>) + Send + 'static) -> JoinHandle<()> {
    let pipe = pipe.clone();
    thread::spawn(move || run(&pipe))
}

fn idle() -> Arc<AtomicBool> {
    Arc::new(AtomicBool::new(true))
}

fn frames(sender: &str, numbers: std::ops::Range<usize>) -> Vec<Frame> {
    numbers.map(|n| Frame::json(format!("{sender}{n}").as_bytes(), Class::Durable)).collect()
}

/// What the client reads: texts, `ping`, `close`. All but the last must be whole; the last, if `may_be_cut` says so.
fn decode(mut bytes: &[u8], may_be_cut: bool) -> Vec<String> {
    let mut read = Vec::new();
    while let [opcode, length, rest @ ..] = bytes {
        let length = usize::from(*length);
        assert!(length <= 125, "frames here are short");
        let Some((payload, rest)) = rest.split_at_checked(length) else { break };
        read.push(match opcode {
            0x81 => String::from_utf8(payload.to_vec()).unwrap(),
            0x88 => "close".into(),
            0x89 => "ping".into(),
            other => panic!("not a frame: {other:#x} after {read:?}"),
        });
        bytes = rest;
    }
    assert!(may_be_cut || bytes.is_empty(), "half a frame after {read:?}");
    read
}

fn received(pipe: &Pipe<Socket>) -> Vec<String> {
    decode(&pipe.wire().kernel.lock().got, false)
}

fn of_sender<'a>(received: &'a [String], sender: &str) -> Vec<&'a str> {
    received.iter().map(String::as_str).filter(|text| text.starts_with(sender)).collect()
}

/// Nothing is queued, and nothing is counted as queued.
fn assert_empty(pipe: &Pipe<Socket>) {
    let out = pipe.out.lock();
    assert!(out.queue.is_empty());
    assert_eq!(out.queue.bytes(), 0);
}

fn join_all(threads: Vec<JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn frames_arrive_whole_in_each_senders_order_and_the_close_frame_last() {
    explore(ROUNDS, || {
        let pipe = pipe(5, LIMIT);
        let task = run_task(&pipe, &idle());
        let senders = ["a", "b"].map(|sender| {
            spawn(&pipe, move |pipe| {
                pipe.send_all(&frames(sender, 0..1));
                pipe.send_all(&frames(sender, 1..3));
                pipe.send_all(&frames(sender, 3..4));
            })
        });
        let control = spawn(&pipe, |pipe| pipe.send_control(encode::PING));
        let reader = spawn(&pipe, |pipe| (0..4).for_each(|_| pipe.wire().read(7)));
        join_all(senders.into_iter().chain([control, reader]).collect());
        pipe.close(CloseCode::Draining, None, None);
        pipe.send_all(&frames("late", 0..1));
        pipe.wire().read(1_000);
        task.join().unwrap();

        let received = received(&pipe);
        assert_eq!(of_sender(&received, "a"), ["a0", "a1", "a2", "a3"]);
        assert_eq!(of_sender(&received, "b"), ["b0", "b1", "b2", "b3"]);
        assert_eq!(received.iter().filter(|it| *it == "ping").count(), 1);
        assert_eq!((received.len(), received.last().map(String::as_str)), (10, Some("close")));
        assert_empty(&pipe);
        assert!(pipe.waiting().is_none());
    });
}

/// A close would wake the task, too: here it comes only when everything has arrived.
#[test]
fn what_the_socket_does_not_take_at_once_is_written_when_it_does() {
    explore(ROUNDS, || {
        let pipe = pipe(5, LIMIT);
        let task = run_task(&pipe, &idle());
        let senders = ["a", "b"]
            .map(|sender| spawn(&pipe, move |pipe| (0..3).for_each(|n| pipe.send_all(&frames(sender, n..n + 1)))));
        let reader = spawn(&pipe, |pipe| pipe.wire().read(100));
        while pipe.wire().kernel.lock().got.len() < 6 * 4 {
            block_on(pipe.wire().readable.notified());
        }
        assert_empty(&pipe);
        join_all(senders.into_iter().chain([reader]).collect());
        pipe.close(CloseCode::Draining, None, None);
        task.join().unwrap();
        let received = received(&pipe);
        assert_eq!(of_sender(&received, "a"), ["a0", "a1", "a2"]);
        assert_eq!(of_sender(&received, "b"), ["b0", "b1", "b2"]);
    });
}

#[test]
fn nothing_is_written_after_a_close_frame_whoever_closes_first() {
    explore(ROUNDS, || {
        let pipe = pipe(3, LIMIT);
        let idle = Arc::new(AtomicBool::new(false));
        let task = run_task(&pipe, &idle);
        let threads = vec![
            spawn(&pipe, |pipe| (0..3).for_each(|n| pipe.send_all(&frames("a", n..n + 1)))),
            spawn(&pipe, |pipe| pipe.close(CloseCode::IdleTimeout, None, None)),
            spawn(&pipe, |pipe| pipe.close_echo(&[3, 232])),
            spawn(&pipe, |pipe| pipe.ask_to_close(CloseCode::Draining, Some(500))),
            spawn(&pipe, |pipe| pipe.wire().read(1_000)),
        ];
        join_all(threads);
        task.join().unwrap();
        let received = received(&pipe);
        assert_eq!(received.iter().filter(|it| *it == "close").count(), 1);
        assert_eq!(received.last().map(String::as_str), Some("close"));
        assert_eq!(received[..received.len() - 1], ["a0", "a1", "a2"][..received.len() - 1]);
        assert_empty(&pipe);
    });
}

#[test]
fn the_answer_of_the_command_in_hand_precedes_the_close_that_was_asked_for() {
    explore(ROUNDS, || {
        let pipe = pipe(4, LIMIT);
        let idle = Arc::new(AtomicBool::new(false));
        let task = run_task(&pipe, &idle);
        let command = spawn(&pipe, move |pipe| {
            pipe.send_all(&frames("answer", 0..1));
            idle.store(true, Ordering::Release);
            pipe.wake();
        });
        let close = spawn(&pipe, |pipe| pipe.ask_to_close(CloseCode::TokenExpired, None));
        let reader = spawn(&pipe, |pipe| (0..3).for_each(|_| pipe.wire().read(40)));
        join_all(vec![command, close, reader]);
        task.join().unwrap();
        assert_eq!(received(&pipe), ["answer0", "close"]);
        assert_empty(&pipe);
    });
}

#[test]
fn a_slow_reader_is_closed_once_and_after_a_whole_frame() {
    explore(ROUNDS, || {
        // Room for three frames of four bytes.
        let pipe = pipe(2, 12);
        let task = run_task(&pipe, &idle());
        let mut threads: Vec<_> = ["a", "b"]
            .map(|sender| spawn(&pipe, move |pipe| (0..3).for_each(|n| pipe.send_all(&frames(sender, n..n + 1)))))
            .into();
        threads.push(spawn(&pipe, |pipe| {
            pipe.send_all(&[Frame::json(b"t0", Class::Ephemeral)]);
            pipe.wire().read(3);
        }));
        join_all(threads);
        pipe.close(CloseCode::Draining, None, None);
        pipe.wire().read(1_000);
        task.join().unwrap();
        let received = received(&pipe);
        assert_eq!(received.iter().position(|it| it == "close"), Some(received.len() - 1));
        // What was dropped is the end of each sender's frames, never something between.
        for (sender, all) in [("a", ["a0", "a1", "a2"]), ("b", ["b0", "b1", "b2"])] {
            let got = of_sender(&received, sender);
            assert_eq!(got, all[..got.len()]);
        }
        assert_empty(&pipe);
    });
}

#[test]
fn a_client_that_is_gone_gets_nothing_more_and_ends_its_task() {
    for breaks in [false, true] {
        explore(ROUNDS / 2, move || {
            let pipe = pipe(6, LIMIT);
            let task = run_task(&pipe, &idle());
            let sender = spawn(&pipe, |pipe| (0..3).for_each(|n| pipe.send_all(&frames("a", n..n + 1))));
            let reader = spawn(&pipe, |pipe| (0..2).for_each(|_| pipe.wire().read(1)));
            let end = spawn(&pipe, move |pipe| if breaks { pipe.wire().fail() } else { pipe.mark_gone() });
            join_all(vec![sender, reader, end]);
            if breaks {
                // Nothing tells of the break but a write.
                pipe.send_all(&frames("a", 3..4));
                pipe.wire().read(1);
            }
            task.join().unwrap();
            assert!(pipe.is_gone() && pipe.is_leaving());

            let before = pipe.wire().kernel.lock().got.clone();
            pipe.wire().read(1_000);
            pipe.send_all(&frames("late", 0..2));
            pipe.send_control(encode::PING);
            pipe.close(CloseCode::Draining, None, None);
            pipe.ask_to_close(CloseCode::Draining, None);
            assert_eq!(pipe.wire().kernel.lock().got, before, "sent to a client that is gone");
            decode(&before, true);
            // Half a frame may be left; no byte of another one.
            let out = pipe.out.lock();
            assert!(out.queue.bytes() < 4, "{:?}", out.queue);
        });
    }
}

/// A transport that fetches: long polling.
#[test]
fn what_is_fetched_is_whole_and_ordered_and_its_reader_is_woken() {
    explore(ROUNDS, || {
        let pipe = pipe(0, LIMIT);
        let senders = ["a", "b"].map(|sender| {
            spawn(&pipe, move |pipe| {
                pipe.send_all(&frames(sender, 0..1));
                pipe.send_all(&frames(sender, 1..3));
            })
        });
        let mut got = Vec::new();
        while got.len() < 6 {
            if !pipe.has_waiting() {
                block_on(pipe.woken());
            }
            for bytes in pipe.take(usize::MAX) {
                got.extend(decode(&bytes, false));
            }
        }
        join_all(senders.into());
        assert_eq!(of_sender(&got, "a"), ["a0", "a1", "a2"]);
        assert_eq!(of_sender(&got, "b"), ["b0", "b1", "b2"]);
        assert_empty(&pipe);
    });
}

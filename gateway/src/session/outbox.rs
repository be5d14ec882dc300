//! What waits for one socket: bounded in bytes, oldest first, written in as few calls as it takes. Pure: the socket is
//! whatever `write` writes to.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
};

use bytes::Bytes;

use crate::encode::{Class, Frame};

/// Slices in one vectored write.
const MAX_SLICES: usize = 64;
/// A queue that grew beyond this gives its memory back when it is empty.
const KEPT_CAPACITY: usize = 8;

#[derive(Debug)]
struct Waiting {
    bytes: Bytes,
    class: Class,
}

/// The queue of one socket.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: VecDeque<Waiting>,
    /// Bytes of the front that are written.
    written: usize,
    /// Bytes that wait.
    bytes: usize,
    /// Ephemeral frames that wait.
    ephemeral: usize,
}

/// The reader is too slow: nothing durable may be dropped, so the socket must go.
#[derive(Debug, PartialEq, Eq)]
pub struct Overflow;

/// What a push dropped.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Dropped(pub usize);

impl Outbox {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Queues a frame. Over the limit, ephemeral frames go first.
    ///
    /// # Errors
    /// [`Overflow`] if durable frames alone exceed `limit`.
    pub fn push(&mut self, frame: &Frame, limit: usize) -> Result<Dropped, Overflow> {
        let mut dropped = Dropped::default();
        if self.bytes + frame.wire().len() > limit {
            dropped.0 += self.drop_ephemeral();
            if self.bytes + frame.wire().len() > limit {
                if frame.class() == Class::Ephemeral {
                    dropped.0 += 1;
                    return Ok(dropped);
                }
                // A single page may be larger than the limit; it waits alone.
                if !self.is_empty() {
                    return Err(Overflow);
                }
            }
        }
        self.push_control(frame.wire().clone(), frame.class());
        Ok(dropped)
    }

    /// Writes a frame for which nothing waits, without queueing it first; only what `write` doesn't take waits.
    ///
    /// # Returns
    /// Whether the queue is empty now.
    ///
    /// # Errors
    /// Any error of `write` but `WouldBlock`.
    pub fn pass(
        &mut self,
        frame: &Frame,
        mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<bool> {
        debug_assert!(self.is_empty());
        let wire = frame.wire();
        let written = match write(&[IoSlice::new(wire)]) {
            Ok(written) if written == wire.len() => return Ok(true),
            Ok(written) => written,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(error) => return Err(error),
        };
        self.push_control(wire.clone(), frame.class());
        self.advance(written);
        self.flush(write)
    }

    /// Queues bytes of the protocol itself (pong, ping, close), which are few and small.
    pub fn push_control(&mut self, bytes: Bytes, class: Class) {
        self.bytes += bytes.len();
        self.ephemeral += usize::from(class == Class::Ephemeral);
        self.waiting.push_back(Waiting { bytes, class });
    }

    fn drop_ephemeral(&mut self) -> usize {
        let is_begun = self.written > 0 && self.waiting.front().is_some_and(|front| front.class == Class::Ephemeral);
        // A queue of durable frames is not searched for every ephemeral one.
        if self.ephemeral == usize::from(is_begun) {
            return 0;
        }
        let before = self.waiting.len();
        // The front may be half written: it stays.
        let front = if self.written > 0 { self.waiting.pop_front() } else { None };
        self.waiting.retain(|it| it.class == Class::Durable);
        if let Some(front) = front {
            self.waiting.push_front(front);
        }
        self.bytes = self.waiting.iter().map(|it| it.bytes.len()).sum::<usize>() - self.written;
        self.ephemeral = usize::from(is_begun);
        before - self.waiting.len()
    }

    /// Drops everything but a half-written front, since half a frame would garble the close frame that follows.
    pub fn abandon(&mut self) {
        self.waiting.truncate(usize::from(self.written > 0));
        self.bytes = self.waiting.front().map_or(0, |front| front.bytes.len() - self.written);
        self.ephemeral = self.waiting.iter().filter(|it| it.class == Class::Ephemeral).count();
    }

    /// Takes the oldest frames, at most `max`, whole ones only: for a transport that fetches instead of being written to.
    pub fn take(&mut self, max: usize) -> Vec<Bytes> {
        debug_assert_eq!(self.written, 0);
        let rest = self.waiting.split_off(max.min(self.waiting.len()));
        let taken = std::mem::replace(&mut self.waiting, rest);
        self.bytes -= taken.iter().map(|it| it.bytes.len()).sum::<usize>();
        self.ephemeral -= taken.iter().filter(|it| it.class == Class::Ephemeral).count();
        taken.into_iter().map(|it| it.bytes).collect()
    }

    /// Writes until all is written or `write` says `WouldBlock`.
    ///
    /// # Returns
    /// Whether the queue is empty now.
    ///
    /// # Errors
    /// Any other error of `write`.
    pub fn flush(&mut self, mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>) -> io::Result<bool> {
        while !self.waiting.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let mut count = 0;
            for (slot, it) in slices.iter_mut().zip(&self.waiting) {
                let skip = if count == 0 { self.written } else { 0 };
                *slot = IoSlice::new(&it.bytes[skip..]);
                count += 1;
            }
            match write(&slices[..count]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.waiting.capacity() > KEPT_CAPACITY {
            self.waiting = VecDeque::new();
        }
        Ok(true)
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while let Some(front) = self.waiting.front() {
            let rest = front.bytes.len() - self.written;
            if written < rest {
                self.written += written;
                return;
            }
            written -= rest;
            self.written = 0;
            self.ephemeral -= usize::from(front.class == Class::Ephemeral);
            self.waiting.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(text: &str, class: Class) -> Frame {
        Frame::json(text.as_bytes(), class)
    }

    #[test]
    fn writes_in_order_whatever_the_socket_takes() {
        let mut outbox = Outbox::default();
        let mut expected = Vec::new();
        for n in 0..200 {
            let frame = frame(&format!("{{\"n\":{n}}}"), Class::Durable);
            expected.extend_from_slice(frame.wire());
            outbox.push(&frame, 1 << 20).unwrap();
        }
        let mut got = Vec::new();
        let mut calls = 0;
        while !outbox
            .flush(|slices| {
                calls += 1;
                if calls % 3 == 0 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                let all: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
                let taken = all.len().min(17 * calls);
                got.extend_from_slice(&all[..taken]);
                Ok(taken)
            })
            .unwrap()
        {}
        assert_eq!(got, expected);
        assert_eq!((outbox.bytes(), outbox.is_empty()), (0, true));
    }

    #[test]
    fn ephemera_go_first_then_the_socket() {
        let mut outbox = Outbox::default();
        let typing = frame(&"t".repeat(80), Class::Ephemeral);
        let message = frame(&"m".repeat(80), Class::Durable);
        outbox.push(&typing, 200).unwrap();
        outbox.push(&message, 200).unwrap();
        assert_eq!(outbox.push(&message, 200), Ok(Dropped(1)));
        assert_eq!(outbox.push(&typing, 200), Ok(Dropped(1)));
        assert_eq!(outbox.push(&message, 200), Err(Overflow));
        assert_eq!(outbox.bytes(), 2 * message.wire().len());
    }

    #[test]
    fn the_count_of_ephemera_follows_the_queue() {
        let (typing, message) = (frame("tttt", Class::Ephemeral), frame("mmmm", Class::Durable));
        let size = typing.wire().len();
        let mut outbox = Outbox::default();
        let count = |outbox: &Outbox| {
            let counted = outbox.waiting.iter().filter(|it| it.class == Class::Ephemeral).count();
            assert_eq!(outbox.ephemeral, counted);
            counted
        };
        for frame in [&typing, &message, &typing, &typing] {
            outbox.push(frame, 4 * size).unwrap();
        }
        assert_eq!(count(&outbox), 3);
        // Half of the first one is written: it stays, the others go.
        outbox.advance(1);
        assert_eq!(outbox.push(&message, 4 * size), Ok(Dropped(2)));
        assert_eq!(count(&outbox), 1);
        outbox.push(&message, 4 * size).unwrap();
        // Nothing is left to drop but what comes.
        assert_eq!(outbox.push(&typing, 4 * size), Ok(Dropped(1)));
        assert_eq!(outbox.bytes(), 4 * size - 1);
        outbox.advance(size - 1);
        assert_eq!(count(&outbox), 0);
        outbox.push(&typing, 4 * size).unwrap();
        outbox.abandon();
        assert_eq!((count(&outbox), outbox.is_empty()), (0, true));
        outbox.push(&typing, 4 * size).unwrap();
        outbox.push(&message, 4 * size).unwrap();
        assert_eq!(outbox.take(1).len(), 1);
        assert_eq!((count(&outbox), outbox.bytes()), (0, size));
        assert_eq!(outbox.take(9).len(), 1);
        assert_eq!((outbox.bytes(), outbox.is_empty()), (0, true));
    }

    #[test]
    fn a_frame_passes_by_the_empty_queue() {
        let frame = frame(&"m".repeat(80), Class::Durable);
        let whole = frame.wire().len();
        let mut outbox = Outbox::default();
        assert!(outbox.pass(&frame, |slices| Ok(slices[0].len())).unwrap());
        assert_eq!((outbox.is_empty(), outbox.bytes()), (true, 0));

        // What the socket doesn't take waits from where it stopped.
        let mut takes = [Ok(30), Err(io::ErrorKind::WouldBlock)].into_iter();
        assert!(!outbox.pass(&frame, |_| takes.next().unwrap().map_err(Into::into)).unwrap());
        assert_eq!(outbox.bytes(), whole - 30);
        let mut rest = Vec::new();
        let write = |slices: &[IoSlice<'_>]| {
            rest.extend_from_slice(&slices[0]);
            Ok(slices[0].len())
        };
        assert!(outbox.flush(write).unwrap());
        assert_eq!(rest, frame.wire()[30..]);

        let mut takes = [io::ErrorKind::Interrupted, io::ErrorKind::WouldBlock].into_iter();
        assert!(!outbox.pass(&frame, |_| Err(takes.next().unwrap().into())).unwrap());
        assert_eq!(outbox.bytes(), whole);
    }

    #[test]
    fn a_half_written_frame_survives() {
        let mut outbox = Outbox::default();
        let typing = frame(&"t".repeat(80), Class::Ephemeral);
        outbox.push(&typing, 200).unwrap();
        let mut first = true;
        let _ =
            outbox.flush(|_| if std::mem::take(&mut first) { Ok(10) } else { Err(io::ErrorKind::WouldBlock.into()) });
        outbox.push(&frame(&"m".repeat(100), Class::Durable), 110).unwrap_err();
        outbox.abandon();
        assert_eq!(outbox.bytes(), typing.wire().len() - 10);
    }
}

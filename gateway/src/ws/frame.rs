//! A client's frames out of a buffer: RFC 6455's rules and our limits, without any I/O.

use std::borrow::Cow;

/// The longest header: two bytes, eight of length, four of mask.
const MAX_HEAD: usize = 14;

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    Text(Cow<'a, str>),
    Ping(&'a [u8]),
    Pong,
    Close(&'a [u8]),
    /// Part of a message that isn't whole yet.
    Fragment,
}

/// How a client broke the protocol: the `code` of the close reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation(pub &'static str);

/// Reads frames from what has arrived; keeps only the text of a fragmented message between calls.
#[derive(Debug, Default)]
pub struct Decoder {
    fragments: Option<Vec<u8>>,
}

impl Decoder {
    /// Takes one frame from the front of `buffer` (unmasking it in place) and tells how many bytes it had, or `None`
    /// if it isn't whole.
    ///
    /// # Errors
    /// [`Violation`]; the connection is beyond repair.
    pub fn next<'a>(
        &mut self,
        buffer: &'a mut [u8],
        max_bytes: usize,
    ) -> Result<Option<(Message<'a>, usize)>, Violation> {
        let Some(head) = Head::parse(buffer)? else { return Ok(None) };
        let held = self.fragments.as_ref().map_or(0, Vec::len);
        if head.length > (max_bytes - held.min(max_bytes)) as u64 {
            return Err(Violation("frame_too_large"));
        }
        let total = head.size + head.length as usize;
        if buffer.len() < total {
            return Ok(None);
        }
        let payload = &mut buffer[head.size..total];
        fastwebsockets::unmask(payload, head.mask);
        let payload: &'a [u8] = payload;
        let message = match head.opcode {
            0x1 if self.fragments.is_some() => return Err(Violation("unfinished_fragments")),
            0x1 if head.fin => Message::Text(utf8(payload)?.into()),
            0x1 => {
                self.fragments = Some(payload.to_vec());
                Message::Fragment
            }
            0x0 => {
                let Some(mut text) = self.fragments.take() else {
                    return Err(Violation("continuation_without_start"));
                };
                text.extend_from_slice(payload);
                if head.fin {
                    let text = String::from_utf8(text).map_err(|_| Violation("invalid_utf8"))?;
                    Message::Text(text.into())
                } else {
                    self.fragments = Some(text);
                    Message::Fragment
                }
            }
            0x8 => {
                valid_close(payload)?;
                Message::Close(payload)
            }
            0x9 => Message::Ping(payload),
            0xA => Message::Pong,
            0x2 => return Err(Violation("binary_frame")),
            _ => return Err(Violation("unknown_opcode")),
        };
        Ok(Some((message, total)))
    }

    /// How many bytes the frame at the front of `buffer` will have, as far as can be told; to size a buffer.
    #[must_use]
    pub fn wanted(buffer: &[u8]) -> usize {
        match Head::parse(buffer) {
            Ok(Some(head)) => head.size + head.length as usize,
            _ => MAX_HEAD,
        }
    }
}

struct Head {
    fin: bool,
    opcode: u8,
    mask: [u8; 4],
    /// Bytes of the header itself.
    size: usize,
    /// Bytes of payload.
    length: u64,
}

impl Head {
    fn parse(buffer: &[u8]) -> Result<Option<Self>, Violation> {
        let [first, second, ..] = *buffer else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(Violation("reserved_bits"));
        }
        if second & 0x80 == 0 {
            return Err(Violation("unmasked_frame"));
        }
        let (fin, opcode) = (first & 0x80 != 0, first & 0x0f);
        let short = second & 0x7f;
        if opcode >= 0x8 && (!fin || short > 125) {
            return Err(Violation("bad_control_frame"));
        }
        let extended = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let size = 2 + extended + 4;
        if buffer.len() < size {
            return Ok(None);
        }
        let length = match extended {
            0 => u64::from(short),
            _ => buffer[2..2 + extended].iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
        };
        let mut mask = [0; 4];
        mask.copy_from_slice(&buffer[size - 4..size]);
        Ok(Some(Self { fin, opcode, mask, size, length }))
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, Violation> {
    std::str::from_utf8(bytes).map_err(|_| Violation("invalid_utf8"))
}

fn valid_close(payload: &[u8]) -> Result<(), Violation> {
    match payload {
        [] => Ok(()),
        [_] => Err(Violation("bad_close_frame")),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            utf8(reason)?;
            match code {
                1000..=1003 | 1007..=1014 | 3000..=4999 => Ok(()),
                _ => Err(Violation("bad_close_frame")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut wire = vec![first];
        if payload.len() < 126 {
            wire.push(0x80 | payload.len() as u8);
        } else {
            wire.push(0x80 | 126);
            wire.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        }
        wire.extend_from_slice(&mask);
        wire.extend(payload.iter().enumerate().map(|(i, byte)| byte ^ mask[i % 4]));
        wire
    }

    fn violation(mut wire: Vec<u8>) -> &'static str {
        Decoder::default().next(&mut wire, 1_000).unwrap_err().0
    }

    #[test]
    fn takes_whole_frames_only() {
        let wire = frame(0x81, "grüße".as_bytes());
        for cut in 0..wire.len() {
            let mut part = wire[..cut].to_vec();
            assert_eq!(Decoder::default().next(&mut part, 1_000), Ok(None));
        }
        let mut whole = wire.clone();
        whole.push(0x81);
        let mut decoder = Decoder::default();
        let taken = decoder.next(&mut whole, 1_000).unwrap().unwrap();
        assert_eq!(taken, (Message::Text("grüße".into()), wire.len()));
    }

    #[test]
    fn joins_fragments_with_a_control_frame_between() {
        let mut decoder = Decoder::default();
        for (wire, expected) in [
            (frame(0x01, b"one "), Message::Fragment),
            (frame(0x89, b"hi"), Message::Ping(b"hi")),
            (frame(0x00, b"two "), Message::Fragment),
            (frame(0x80, b"three"), Message::Text("one two three".into())),
        ] {
            let mut wire = wire;
            assert_eq!(decoder.next(&mut wire, 1_000).unwrap().unwrap().0, expected);
        }
        let mut next = frame(0x81, b"x");
        assert_eq!(decoder.next(&mut next, 1_000).unwrap().unwrap().0, Message::Text("x".into()));
    }

    #[test]
    fn fragments_together_are_bounded() {
        let mut decoder = Decoder::default();
        let mut first = frame(0x01, &[b'x'; 600]);
        decoder.next(&mut first, 1_000).unwrap();
        let mut second = frame(0x00, &[b'x'; 401]);
        assert_eq!(decoder.next(&mut second, 1_000).unwrap_err(), Violation("frame_too_large"));
    }

    #[test]
    fn refuses_what_breaks_the_protocol() {
        assert_eq!(violation(frame(0x82, b"x")), "binary_frame");
        assert_eq!(violation(frame(0xC1, b"x")), "reserved_bits");
        assert_eq!(violation(frame(0x83, b"x")), "unknown_opcode");
        assert_eq!(violation(frame(0x80, b"x")), "continuation_without_start");
        assert_eq!(violation(frame(0x09, b"x")), "bad_control_frame");
        assert_eq!(violation(frame(0x81, &[0xff])), "invalid_utf8");
        assert_eq!(violation(frame(0x88, &[3])), "bad_close_frame");
        assert_eq!(violation(vec![0x81, 0x01, b'x']), "unmasked_frame");
        let huge = [vec![0x81, 0xff], vec![0xff; 8], vec![0; 4]].concat();
        assert_eq!(violation(huge), "frame_too_large");
    }

    /// What the decoder makes of a client's bytes that arrive in pieces of these sizes, as [`super::super::reader`] calls it.
    fn decode(bytes: &[u8], pieces: &[usize], max_bytes: usize) -> Result<Vec<String>, Violation> {
        let (mut decoder, mut held, mut messages) = (Decoder::default(), Vec::new(), Vec::new());
        let (mut rest, mut sizes) = (bytes, pieces.iter().copied().cycle());
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(sizes.next().unwrap_or(1).clamp(1, rest.len()));
            held.extend_from_slice(piece);
            rest = later;
            let mut taken = 0;
            let came = held.len();
            while let Some((message, size)) = decoder.next(&mut held[taken..], max_bytes)? {
                assert!(taken + size <= came, "more was taken than came");
                messages.push(format!("{message:?}"));
                taken += size;
            }
            held.drain(..taken);
        }
        Ok(messages)
    }

    proptest::proptest! {
        #[test]
        fn frames_mean_the_same_however_they_arrive(
            texts in proptest::collection::vec(".{0,200}", 1..8),
            cuts in proptest::collection::vec(0_usize..300, 0..4),
            pieces in proptest::collection::vec(1_usize..70, 1..6),
        ) {
            let (mut wire, mut expected) = (Vec::new(), Vec::new());
            for text in &texts {
                // One message in several fragments, a ping between them.
                let mut rest = text.as_bytes();
                let mut opcode = 0x01;
                for cut in &cuts {
                    let (fragment, later) = rest.split_at((*cut).min(rest.len()));
                    wire.extend(frame(opcode, fragment));
                    wire.extend(frame(0x89, b"between"));
                    expected.push(format!("{:?}", Message::Fragment));
                    expected.push(format!("{:?}", Message::Ping(b"between")));
                    (rest, opcode) = (later, 0x00);
                }
                wire.extend(frame(0x80 | opcode, rest));
                expected.push(format!("{:?}", Message::Text(text.into())));
            }
            let expected = Ok(expected);
            proptest::prop_assert_eq!(&decode(&wire, &[wire.len()], 4_096), &expected);
            proptest::prop_assert_eq!(&decode(&wire, &pieces, 4_096), &expected);
        }

        #[test]
        fn any_bytes_are_frames_or_a_violation(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400),
            pieces in proptest::collection::vec(1_usize..70, 1..6),
        ) {
            let whole = decode(&bytes, &[bytes.len()], 200);
            proptest::prop_assert_eq!(decode(&bytes, &pieces, 200), whole);
            let _ = Decoder::wanted(&bytes);
        }
    }
}

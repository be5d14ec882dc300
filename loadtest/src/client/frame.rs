//! WebSocket frames as a client needs them (RFC 6455): masked out, bare in, unfragmented.

/// A frame of the server. Payloads are borrowed from what was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    Text(&'a [u8]),
    Ping(&'a [u8]),
    Pong,
    /// 1005 where the frame names no code (RFC 6455, section 7.1.5).
    Close(u16),
}

/// What a client sends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Opcode {
    Text = 0x1,
    Close = 0x8,
    Pong = 0xA,
}

/// Why bytes are no frame that Partyline's server would send.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Violation(pub(crate) &'static str);

/// A larger frame is a defect: `joined`, the largest, holds 200 events of at most 20 KiB.
const MAX_PAYLOAD: u64 = 8 << 20;
const NO_CODE: u16 = 1005;

/// The first frame and its size in bytes; none while it is not whole.
///
/// # Errors
/// [`Violation`].
pub(crate) fn decode(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, Violation> {
    let &[first, second, ..] = bytes else { return Ok(None) };
    if first & 0x70 != 0 {
        return Err(Violation("reserved bits are set"));
    }
    if first & 0x80 == 0 || first & 0x0F == 0 {
        return Err(Violation("the server fragments"));
    }
    if second & 0x80 != 0 {
        return Err(Violation("the server masks"));
    }
    let (length, head) = match second {
        126 => match bytes.get(2..4) {
            Some(&[a, b]) => (u64::from(u16::from_be_bytes([a, b])), 4),
            _ => return Ok(None),
        },
        127 => match bytes.get(2..10).and_then(|length| length.try_into().ok()) {
            Some(length) => (u64::from_be_bytes(length), 10),
            None => return Ok(None),
        },
        short => (u64::from(short), 2),
    };
    if length > MAX_PAYLOAD {
        return Err(Violation("the frame is too large"));
    }
    let end = head + length as usize;
    let Some(payload) = bytes.get(head..end) else { return Ok(None) };
    let frame = match first & 0x0F {
        0x1 => Frame::Text(payload),
        0x8 => Frame::Close(payload.first_chunk().map_or(NO_CODE, |code| u16::from_be_bytes(*code))),
        0x9 => Frame::Ping(payload),
        0xA => Frame::Pong,
        _ => return Err(Violation("the opcode is neither text nor control")),
    };
    Ok(Some((frame, end)))
}

/// Appends a masked frame.
pub(crate) fn encode(opcode: Opcode, payload: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
    head(opcode, 0x80, payload.len(), out);
    out.extend_from_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// Appends a text frame as a server sends one.
pub(crate) fn encode_bare(payload: &[u8], out: &mut Vec<u8>) {
    head(Opcode::Text, 0, payload.len(), out);
    out.extend_from_slice(payload);
}

fn head(opcode: Opcode, masked: u8, length: usize, out: &mut Vec<u8>) {
    out.push(0x80 | opcode as u8);
    match length {
        0..126 => out.push(masked | length as u8),
        126..=0xFFFF => {
            out.push(masked | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(masked | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_comes_back_whole_and_only_whole() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 200_000] {
            let payload: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let mut wire = Vec::new();
            encode_bare(&payload, &mut wire);
            assert_eq!(decode(&wire), Ok(Some((Frame::Text(&payload), wire.len()))));
            for cut in [0, 1, wire.len() / 2, wire.len() - 1] {
                assert_eq!(decode(&wire[..cut]), Ok(None), "{length} bytes cut at {cut}");
            }
        }
    }

    #[test]
    fn the_server_reads_what_the_client_masks() {
        // RFC 6455, section 5.7: a single-frame masked text message, "Hello".
        let mut wire = Vec::new();
        encode(Opcode::Text, b"Hello", [0x37, 0xfa, 0x21, 0x3d], &mut wire);
        assert_eq!(wire, [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
    }

    #[test]
    fn control_frames_are_told_apart() {
        assert_eq!(decode(&[0x89, 0x01, 7]), Ok(Some((Frame::Ping(&[7]), 3))));
        assert_eq!(decode(&[0x8A, 0x00, 0x81]), Ok(Some((Frame::Pong, 2))));
        assert_eq!(decode(&[0x88, 0x02, 0x0F, 0xA1]), Ok(Some((Frame::Close(4001), 4))));
        assert_eq!(decode(&[0x88, 0x00]), Ok(Some((Frame::Close(1005), 2))));
    }

    #[test]
    fn refuses_what_the_server_never_sends() {
        for wire in [&[0xC1, 0][..], &[0x01, 0], &[0x80, 0], &[0x82, 0], &[0x81, 0x80, 0, 0, 0, 0]] {
            assert!(decode(wire).is_err(), "{wire:x?}");
        }
        assert!(decode(&[0x81, 127, 0, 0, 0, 1, 0, 0, 0, 0]).is_err());
    }
}

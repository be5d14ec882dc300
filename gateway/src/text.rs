//! Unicode rules for what people write and for their names, decided by character properties, not by lists of characters.

use std::borrow::Cow;

use icu_properties::{
    CodePointMapData, CodePointMapDataBorrowed, CodePointSetData, CodePointSetDataBorrowed,
    props::{BidiControl, DefaultIgnorableCodePoint, GeneralCategory, PrependedConcatenationMark},
};

const IGNORABLE: CodePointSetDataBorrowed<'static> = CodePointSetData::new::<DefaultIgnorableCodePoint>();
const BIDI_CONTROLS: CodePointSetDataBorrowed<'static> = CodePointSetData::new::<BidiControl>();
/// The only format characters with a glyph of their own.
const PREPENDED_MARKS: CodePointSetDataBorrowed<'static> = CodePointSetData::new::<PrependedConcatenationMark>();
const CATEGORIES: CodePointMapDataBorrowed<'static, GeneralCategory> = CodePointMapData::new();

/// Letters and symbols by their properties, whose glyph is empty by definition: Braille pattern blank, musical null
/// notehead, Egyptian full and half blank, Khitan filler.
const BLANK: [char; 5] = ['\u{2800}', '\u{1D159}', '\u{13441}', '\u{13442}', '\u{16FE4}'];

/// Pops the last embedding or override.
const PDF: char = '\u{202C}';
/// Pops the last isolate, and what was opened within it.
const PDI: char = '\u{2069}';

/// Returns whether anything of the text can be seen.
#[must_use]
pub fn is_visible(text: &str) -> bool {
    text.chars().any(|it| {
        let has_no_glyph = match CATEGORIES.get(it) {
            GeneralCategory::Control => true,
            GeneralCategory::Format => !PREPENDED_MARKS.contains(it),
            _ => false,
        };
        !(has_no_glyph || it.is_whitespace() || IGNORABLE.contains(it) || BLANK.contains(&it))
    })
}

/// Returns a name or title without bidirectional controls, or nothing if none of it can be seen: it stands within
/// other text, which it must not rearrange.
#[must_use]
pub fn display_name(text: &str) -> Option<Cow<'_, str>> {
    let name = if text.contains(is_bidi_control) {
        Cow::Owned(text.chars().filter(|&it| !is_bidi_control(it)).collect())
    } else {
        Cow::Borrowed(text)
    };
    is_visible(&name).then_some(name)
}

fn is_bidi_control(it: char) -> bool {
    BIDI_CONTROLS.contains(it)
}

/// Ends every bidirectional embedding, override and isolate in the paragraph where it begins, and removes the ends that
/// have no beginning, so that none of them reaches what a client shows next to the text (Unicode Annex 9, 3.3.2).
#[must_use]
pub fn close_bidi(text: &str) -> Cow<'_, str> {
    if !text.contains(is_bidi_control) {
        return Cow::Borrowed(text);
    }
    let mut closed = String::with_capacity(text.len());
    // The ends that are due, and how many of them are isolates'.
    let (mut due, mut isolates) = (Vec::new(), 0_usize);
    for it in text.chars() {
        match it {
            '\u{202A}' | '\u{202B}' | '\u{202D}' | '\u{202E}' => due.push(PDF),
            '\u{2066}'..='\u{2068}' => {
                due.push(PDI);
                isolates += 1;
            }
            PDF if due.last() == Some(&PDF) => _ = due.pop(),
            PDI if isolates > 0 => {
                while due.pop() == Some(PDF) {}
                isolates -= 1;
            }
            PDF | PDI => continue,
            '\n' | '\r' | '\u{2029}' => {
                closed.extend(due.drain(..).rev());
                isolates = 0;
            }
            _ => {}
        }
        closed.push(it);
    }
    closed.extend(due.drain(..).rev());
    Cow::Owned(closed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_characters_alone_are_not_visible() {
        for blank in [
            "\u{200B}",
            "\u{200D}\u{FEFF}\u{2060}",
            "\u{3164}",
            "\u{115F}\u{1160}\u{FFA0}",
            "\u{2800}",
            "\u{AD}",
            "\u{FE0F}",
            "\u{202E}\u{200F}\u{61C}",
            "\u{E0061}\u{E007F}",
            "\u{FFF9}\u{FFFB}",
            " \u{A0}\u{3000}\n\t",
            "\u{1D159}",
            "\u{13441}",
            "",
        ] {
            assert!(!is_visible(blank), "{blank:?}");
        }
    }

    #[test]
    fn everything_with_a_glyph_is_visible() {
        for text in [
            "a",
            ".",
            "\u{2764}\u{FE0F}",
            "\u{1F468}\u{200D}\u{1F469}\u{200D}\u{1F467}",
            "1\u{FE0F}\u{20E3}",
            "\u{1F3F4}\u{E0067}\u{E0062}\u{E0073}\u{E0063}\u{E0074}\u{E007F}",
            "\u{1F1E9}\u{1F1EA}",
            "\u{301}",
            "\u{600}",
            "\u{2801}",
            "\u{5E9}\u{200F}!",
            "\u{E000}",
            "\u{10FFFD}",
        ] {
            assert!(is_visible(text), "{text:?}");
        }
    }

    #[test]
    fn names_lose_bidi_controls_and_must_be_visible() {
        assert_eq!(display_name("Ann"), Some("Ann".into()));
        assert_eq!(display_name("Ann\u{202E}nimda\u{2066}\u{200E}\u{61C}"), Some("Annnimda".into()));
        assert_eq!(display_name("\u{1F469}\u{200D}\u{1F680} Eve"), Some("\u{1F469}\u{200D}\u{1F680} Eve".into()));
        assert_eq!(display_name("\u{3164}\u{202E}"), None);
    }

    #[test]
    fn directions_end_in_the_paragraph_where_they_begin() {
        for (text, closed) in [
            ("plain", "plain"),
            ("a\u{200F}b", "a\u{200F}b"),
            ("\u{202E}txt.exe", "\u{202E}txt.exe\u{202C}"),
            ("\u{202E}a\u{202C}b", "\u{202E}a\u{202C}b"),
            ("\u{2067}a\u{202D}b", "\u{2067}a\u{202D}b\u{202C}\u{2069}"),
            // The end of an isolate ends what was opened within it, and an embedding's end does not reach out of one.
            ("\u{2067}a\u{202D}b\u{2069}c", "\u{2067}a\u{202D}b\u{2069}c"),
            ("\u{202B}\u{2068}a\u{202C}", "\u{202B}\u{2068}a\u{2069}\u{202C}"),
            ("a\u{2069}\u{202C}b", "ab"),
            ("\u{202E}a\nb\u{202C}", "\u{202E}a\u{202C}\nb"),
            ("\u{2066}a\r\nb\u{2069}", "\u{2066}a\u{2069}\r\nb"),
        ] {
            assert_eq!(close_bidi(text), closed, "{text:?}");
            assert_eq!(close_bidi(closed), closed, "{text:?} twice");
        }
    }
}

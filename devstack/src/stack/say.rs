//! Lines for the person at the terminal.

/// Prints a line; a reader that went away (`make run | head`) is no reason to die.
macro_rules! say {
    ($($part:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout().lock(), $($part)*);
    }};
}

pub(super) use say;
